"""Stereo pairs and anaglyphs."""

from __future__ import annotations

import numpy as np

from vstrain.systems.depth.config import Stereo
from vstrain.systems.depth.scene.warp import shifted

# Red-cyan glasses: E. Dubois, "A projection method to generate anaglyph stereo images" (ICASSP 2001), with the values that
# its author later published for common glasses. Rows: red, green, blue of the anaglyph, from (R, G, B) as stored.
LEFT = np.array(
    [
        [0.456100, 0.500484, 0.176381],
        [-0.0400822, -0.0378246, -0.0157589],
        [-0.0152161, -0.0205971, -0.00546856],
    ],
    np.float32,
)
RIGHT = np.array(
    [
        [-0.0434706, -0.0879388, -0.00155529],
        [0.378476, 0.733640, -0.0184503],
        [-0.0721527, -0.112961, 1.226400],
    ],
    np.float32,
)


def pair(photo: np.ndarray, unit: np.ndarray, options: Stereo, edge: float) -> tuple[np.ndarray, np.ndarray]:
    """(left, right) views uint8 (H, W, 3), both moved by half, so that the holes of each are small. What is nearer than the
    plane of the screen lies further right in the left view, in front of the screen."""
    half = options.shift / 100 * photo.shape[1] / 2
    return tuple(shifted(photo, unit, amount, 0, options.plane, edge)[0] for amount in (half, -half))


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """uint8 (H, 2 W, 3): full width, the left eye's view on the left, for parallel viewing and headsets."""
    return np.concatenate((left, right), axis=1)


def anaglyph(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) for red-cyan glasses, red before the left eye."""
    mixed = left @ LEFT.T + right @ RIGHT.T
    return np.rint(mixed.clip(0, 255)).astype(np.uint8)
