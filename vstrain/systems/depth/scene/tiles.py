"""Large photos piece by piece, for detail that the whole picture's prediction is too small for."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

OVERLAP = 0.25  # of a tile, with each neighbour


def tiled(predict: Callable[[np.ndarray], np.ndarray], photo: np.ndarray, side: int, detail: float) -> np.ndarray:
    """float32 (H, W): `predict` (photo (h, w, 3) to map (h, w), of free scale and shift) on overlapping tiles of `side`
    pixels. Each is fitted by least squares to the prediction of the whole, compared at the resolution that this has
    (`detail` of its pixels a pixel of the photo), then all are blended with smooth weights. A tile that contradicts the
    whole (no positive scale fits) gives way to it."""
    whole = predict(photo)
    height, width = whole.shape
    if max(height, width) <= side:
        return whole
    total, weights = np.zeros_like(whole), np.zeros_like(whole)
    for top in starts(height, side):
        for left in starts(width, side):
            at = (slice(top, min(height, top + side)), slice(left, min(width, left + side)))
            weight = np.outer(*(ramp(part.stop - part.start) for part in at))
            total[at] += weight * fitted(predict(photo[at]), whole[at], detail)
            weights[at] += weight
    return total / weights


def starts(length: int, side: int) -> list[int]:
    """Where tiles begin that cover `length`, evenly, overlapping by at least OVERLAP."""
    if length <= side:
        return [0]
    count = int(np.ceil((length - side) / (side * (1 - OVERLAP)))) + 1
    return np.rint(np.linspace(0, length - side, count)).astype(int).tolist()


def ramp(length: int) -> np.ndarray:
    """float32 (length,) blending weights: 1 inside, falling as a cosine towards both ends, nowhere 0."""
    from_end = np.minimum(np.arange(length) + 0.5, length - 0.5 - np.arange(length))
    share = np.minimum(1, from_end / (OVERLAP * length))
    return ((1 - np.cos(np.pi * share)) / 2).astype(np.float32)


def fitted(tile: np.ndarray, base: np.ndarray, detail: float) -> np.ndarray:
    """a tile + b, nearest to `base` (h, w) at its coarser resolution."""
    size = tuple(max(2, round(length * min(detail, 1))) for length in tile.shape[::-1])
    x, y = (cv2.resize(part, size, interpolation=cv2.INTER_AREA).astype(np.float64) for part in (tile, base))
    spread = x - x.mean()
    variance = (spread * spread).mean()
    scale = (spread * y).mean() / variance if variance > 1e-12 * max(1e-12, (x * x).mean()) else 0
    if scale <= 0:
        return base
    return (scale * (tile - x.mean()) + y.mean()).astype(np.float32)
