"""Condition augmentation (spec section 5.3) on float32 pictures (H, W, C). All draws come from the given
generator; every function is the identity at strength 0 (rescale: at share 1)."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from vstrain.systems.multiview.config import Augment


class Corrupted(NamedTuple):
    picture: np.ndarray  # (H, W, 3)
    noise: int  # timestep of the noise that is still to be put on its latent
    distort: float  # strength of its grid distortion
    turn: np.ndarray  # degrees that its pose code is off in elevation and azimuth


def background(rng: np.random.Generator, config: Augment) -> float:
    """The flat gray behind all views of an object; 1 is white."""
    return float(rng.random()) if rng.random() < config.gray_background else 1.0


def kept_views(rng: np.random.Generator, conditions: int, config: Augment) -> np.ndarray:
    """Which condition views attention may see, bool (C,). View 0 always stays."""
    keep = np.ones(conditions, dtype=bool)
    if rng.random() < config.drop:
        count = int(rng.integers(1, conditions + 1))
        keep[1 + rng.permutation(conditions - 1)[count - 1 :]] = False
    return keep


def distortion_axis(rng: np.random.Generator, size: int, strength: float) -> np.ndarray:
    """Where each of `size` output pixels reads along one axis, float32 (size,): piecewise linear between
    8..16 knots that moved by strength x U(-0.5, 0.5) of their distance. The ends stay, so it is monotone
    below strength 1."""
    knots = np.linspace(0.0, size - 1.0, int(rng.integers(8, 17)))
    moved = knots + strength * rng.uniform(-0.5, 0.5, len(knots)) * (knots[1] - knots[0])
    moved[[0, -1]] = knots[[0, -1]]
    return np.interp(np.arange(size), knots, moved).astype(np.float32)


def distort(rng: np.random.Generator, picture: np.ndarray, strength: float) -> np.ndarray:
    """Grid distortion, bilinear; mask and colour channels of one picture move together."""
    height, width = picture.shape[:2]
    x, y = distortion_axis(rng, width, strength), distortion_axis(rng, height, strength)
    map_x, map_y = np.meshgrid(x, y)
    return cv2.remap(picture, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def rescale(picture: np.ndarray, share: float) -> np.ndarray:
    """Down to `share` of its size and up again."""
    height, width = picture.shape[:2]
    small = (max(1, round(width * share)), max(1, round(height * share)))
    if small == (width, height):
        return picture
    return cv2.resize(
        cv2.resize(picture, small, interpolation=cv2.INTER_AREA),
        (width, height),
        interpolation=cv2.INTER_LINEAR,
    )


def colour(rng: np.random.Generator, rgb: np.ndarray, strength: float) -> np.ndarray:
    """Brightness and gamma by a factor, hue by a share of the circle, each U[-strength, strength]; rgb in
    [0, 1]."""
    brightness, gamma, hue = rng.uniform(-strength, strength, 3)
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + 360.0 * hue) % 360.0
    turned = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).clip(0.0, 1.0)
    return (turned ** (1.0 + gamma) * (1.0 + brightness)).clip(0.0, 1.0).astype(np.float32)


def over(rgba: np.ndarray, background: float) -> np.ndarray:
    """Straight-alpha RGBA in [0, 1] over a flat gray: (H, W, 3)."""
    alpha = rgba[..., 3:]
    return rgba[..., :3] * alpha + background * (1.0 - alpha)


def corrupt(rng: np.random.Generator, rgba: np.ndarray, background: float, config: Augment) -> Corrupted:
    """One condition view (H, W, 4), straight alpha, made untrustworthy and put before a flat background."""
    shares = [config.noise, config.distort, config.rescale, config.jitter, config.colour]
    noisy, distorted, rescaled, jittered, coloured = rng.random(5) < shares
    noise = int(rng.integers(0, config.noise_max + 1)) if noisy else 0
    strength = float(rng.uniform(0.0, config.distort_max)) if distorted else 0.0
    turn = rng.uniform(-config.jitter_degrees, config.jitter_degrees, 2) if jittered else np.zeros(2)
    if coloured:
        rgb = colour(rng, np.ascontiguousarray(rgba[..., :3]), config.colour_range)
        rgba = np.concatenate([rgb, rgba[..., 3:]], axis=2)
    picture = over(rgba, background)
    if distorted:
        picture = distort(rng, picture, strength)
    if rescaled:
        picture = rescale(picture, float(rng.uniform(config.rescale_min, 1.0)))
    return Corrupted(picture, noise, strength, turn)
