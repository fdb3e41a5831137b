"""Disparity of a video that keeps its scale from frame to frame.

A relative network is free to give every frame another scale and shift. Each frame is fitted to the aligned frame before it:
scale and shift minimise the squared residuals, taken along both axes alike (reduced major axis: the ratio of the standard
deviations; ordinary least squares would shrink a noisy map a little in every frame, and so without end). Pixels count less
the more their colour changed and, in a few reweighted rounds, the farther they lie off the fit (Tukey's biweight). The range
that is displayed follows slowly. A frame whose picture does not correlate with the one before begins a new shot.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vstrain.systems.depth.config import Video
from vstrain.systems.depth.scene.camera import over_range

ROUNDS, BIWEIGHT = 10, 4.685  # Tukey's constant: 95 percent efficient for normal residuals
THUMB = 32  # pixels: side of the pictures compared to find cuts


@dataclass
class Flicker:
    """Mean absolute difference of still pixels between two frames, as a share of the displayed range."""

    raw: float = 0  # sums
    steady: float = 0
    pixels: int = 0

    @property
    def before(self) -> float:
        return self.raw / max(self.pixels, 1)

    @property
    def after(self) -> float:
        return self.steady / max(self.pixels, 1)


class Steady:
    """`unit = steady(values, picture)` for one frame after the other; holds one frame."""

    def __init__(self, options: Video, fit: bool):
        self.options, self.fit, self.flicker = options, fit, Flicker()
        self.picture = None

    def __call__(self, values: np.ndarray, picture: np.ndarray) -> np.ndarray:
        """float32 (h, w) in [0, 1] of disparity (h, w) and its picture uint8 (h, w, 3). `aligned`, `low` and `high` are then
        the aligned map and the range that 0 and 1 stand for. Without `fit` (metric depth) values stay as they are."""
        picture = cv2.GaussianBlur(picture, (0, 0), 1)
        raw = over_range(values)[0]
        new_shot = self.picture is None or alike(self.picture, picture) < self.options.cut
        if new_shot:
            aligned = raw if self.fit else values
            self.low, self.high = display_range(aligned)
        else:
            change = cv2.absdiff(picture, self.picture).max(2).astype(np.float32)
            aligned = values
            if self.fit:
                scale, shift = fit_scale_shift(values, self.aligned, 1 / (1 + (change / self.options.static) ** 2))
                aligned = np.float32(scale) * values + np.float32(shift)
            now, keep = display_range(aligned), self.options.momentum
            self.low, self.high = keep * self.low + (1 - keep) * now[0], keep * self.high + (1 - keep) * now[1]
        unit = ((aligned - self.low) / max(self.high - self.low, 1e-6)).clip(0, 1).astype(np.float32)
        if not new_shot:
            still = change < self.options.static
            self.flicker.raw += float(np.abs(raw - self.raw)[still].sum())
            self.flicker.steady += float(np.abs(unit - self.unit)[still].sum())
            self.flicker.pixels += int(still.sum())
        self.picture, self.raw, self.aligned, self.unit = picture, raw, aligned, unit
        return unit


def fit_scale_shift(values: np.ndarray, reference: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """(a, b), a > 0, with a values + b near `reference` (h, w), robustly, by pixels of `weight` >= 0. A map without
    contrast keeps its scale."""
    x, y, sure = (part.astype(np.float64).reshape(-1) for part in (values, reference, weight))
    known = sure > 0.5 if (sure > 0.5).any() else np.ones(len(sure), bool)
    middle = [np.median(part[known]) for part in (x, y)]  # the first guess
    width = [np.median(np.abs(part[known] - m)) for part, m in zip((x, y), middle, strict=True)]
    a = width[1] / width[0] if min(width) > 1e-9 else 1.0
    b = middle[1] - a * middle[0]
    for _ in range(ROUNDS):
        residual = np.abs(a * x + b - y)
        spread = 1.4826 * np.median(residual[known])
        trust = sure * (1 - (residual / max(BIWEIGHT * spread, 1e-9)) ** 2).clip(0) ** 2
        trust /= trust.sum()
        mean_x, mean_y = trust @ x, trust @ y
        var_x, var_y = trust @ (x - mean_x) ** 2, trust @ (y - mean_y) ** 2
        a = np.sqrt(var_y / var_x) if min(var_x, var_y) > 1e-12 else 1.0
        b = mean_y - a * mean_x
    return float(a), float(b)


def display_range(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, (0.5, 99.5))
    return float(low), float(high)


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two pictures of one size, seen small; 1 for two that show nothing."""
    small = [cv2.resize(x, (THUMB, THUMB), interpolation=cv2.INTER_AREA).astype(np.float64) for x in (one, other)]
    a, b = (x - x.mean() for x in small)
    power = np.sqrt((a * a).mean() * (b * b).mean())
    return float((a * b).mean() / power) if power > 1 else float(np.abs(small[0] - small[1]).max() < 16)
