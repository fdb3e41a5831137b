"""Steps where a network's map, brought up to the photo's size, has ramps."""

from __future__ import annotations

import cv2
import numpy as np


def sharpen(unit: np.ndarray, radius: int, edge: float) -> np.ndarray:
    """float32 (H, W) like `unit`, with steps higher than `edge` made sharp: a pixel takes the nearer in value of the
    largest and the smallest within `radius` pixels (toggle mapping, Kramer and Bruckner 1975). A slope is no step: twice as
    far it has twice the range. The near side grows by a pixel, since pixels at an outline hold colours of both sides."""
    near, far = _dilate(unit, radius), _erode(unit, radius)
    step = near - far
    is_step = (step > edge) & (_dilate(near, radius) - _erode(far, radius) < 1.5 * step)
    sharp = np.where(is_step, np.where(near - unit < unit - far, near, far), unit)
    grown = _dilate(sharp, 1)
    return np.where(grown - _erode(sharp, 1) > edge, grown, sharp)


def _box(radius: int) -> np.ndarray:
    return np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)


def _dilate(values: np.ndarray, radius: int) -> np.ndarray:
    return cv2.dilate(values, _box(radius), borderType=cv2.BORDER_REPLICATE)


def _erode(values: np.ndarray, radius: int) -> np.ndarray:
    return cv2.erode(values, _box(radius), borderType=cv2.BORDER_REPLICATE)
