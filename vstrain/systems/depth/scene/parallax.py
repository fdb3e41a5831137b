"""A short video in which the camera circles a little in front of a photo, and ends where it began."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from vstrain.systems.depth.config import Parallax
from vstrain.systems.depth.scene.edges import sharpen
from vstrain.systems.depth.scene.warp import shifted

TALL = 0.4  # height of the camera's path over its width


def path(count: int) -> np.ndarray:
    """float (count, 2): (right, down) shifts of the nearest points on an ellipse, as shares of the largest shift."""
    turn = 2 * np.pi * np.arange(count) / count
    return np.stack([np.sin(turn), TALL * np.cos(turn)], axis=1)


def frames(photo: np.ndarray, unit: np.ndarray, options: Parallax, edge: float) -> Iterator[np.ndarray]:
    """uint8 (H, W, 3) with even sides, `seconds` times `fps` frames. The rim, where the camera looks past the photo, is cut
    off, so the picture is magnified a little."""
    share = min(1, options.side / max(unit.shape))
    height, width = (max(2, round(n * share) // 2 * 2) for n in unit.shape)
    if (height, width) != unit.shape:
        photo, unit = (cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA) for part in (photo, unit))
        unit = sharpen(unit, 1, edge)
    most = options.shift / 100 * width
    margin = most * max(options.plane, 1 - options.plane)
    inner = min(1 - 2 * margin / width, 1 - 2 * TALL * margin / height)

    def frame(shift: np.ndarray) -> np.ndarray:
        moved = shifted(photo, unit, *(shift * most), options.plane, edge)[0]
        return magnified(moved, inner)

    shifts = path(max(2, round(options.seconds * options.fps)))
    with ThreadPoolExecutor(workers := len(os.sched_getaffinity(0))) as pool:
        for begin in range(0, len(shifts), workers):
            yield from pool.map(frame, shifts[begin : begin + workers])


def magnified(picture: np.ndarray, inner: float) -> np.ndarray:
    """The middle `inner` share of a picture at the whole's size."""
    height, width = picture.shape[:2]
    size = round(width * inner), round(height * inner)
    centre = (width - 1) / 2, (height - 1) / 2
    cut = np.float32([[inner, 0, centre[0] * (1 - inner)], [0, inner, centre[1] * (1 - inner)]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return picture if size == (width, height) else cv2.warpAffine(picture, cut, (width, height), flags=flags)
