"""Handles and targets on the pixel grid: (x, y) floats, pixel centres at integers (spec drag, section 2)."""

from __future__ import annotations

import warnings

import numpy as np

MAX_PAIRS = 20  # a training sample never has more
NO_POINT = -1.0  # both coordinates of the rows behind the last pair: outside of every picture


def nearest_pixel(points: np.ndarray) -> np.ndarray:
    """(N, 2) float (x, y) -> (N, 2) int, halves away from zero for coordinates >= 0."""
    return np.floor(np.asarray(points, np.float64).reshape(-1, 2) + 0.5).astype(np.int64)


def inside(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """(N,) bool: the nearest pixel lies in a (height, width) picture."""
    points = np.asarray(points, np.float64).reshape(-1, 2)
    return np.all((points >= -0.5) & (points < np.array([width, height]) - 0.5), axis=1)


def rasterise(handles: np.ndarray, targets: np.ndarray, height: int, width: int, radius: int = 0) -> np.ndarray:
    """Id maps of N pairs: int32 (2, height, width), handles first. Pixel of point k = 1..N: k, others 0.

    A later pair wins a shared pixel. `radius` > 0 draws discs instead of single pixels.
    Raises ValueError for a point outside the picture or a handle without target; warns above 20 pairs.
    """
    if len(handles) != len(targets):
        raise ValueError(f"{len(handles)} handles and {len(targets)} targets: every handle needs one target")
    if len(handles) > MAX_PAIRS:
        warnings.warn(f"{len(handles)} point pairs: training never saw more than {MAX_PAIRS}", stacklevel=2)
    maps = np.zeros((2, height, width), np.int32)
    for plane, name, points in zip(maps, ("handle", "target"), (handles, targets), strict=True):
        valid = inside(points, height, width)
        if not valid.all():
            k = int(np.flatnonzero(~valid)[0])
            x, y = np.asarray(points, np.float64)[k]
            raise ValueError(f"{name} {k + 1} at ({x:g}, {y:g}) is outside of the {width}x{height} picture")
        for k, (x, y) in enumerate(nearest_pixel(points), start=1):
            _draw(plane, x, y, radius, k)
    return maps


def _draw(plane: np.ndarray, x: int, y: int, radius: int, value: int) -> None:
    y0, x0 = max(y - radius, 0), max(x - radius, 0)
    patch = plane[y0 : y + radius + 1, x0 : x + radius + 1]
    rows, columns = np.ogrid[y0 : y0 + patch.shape[0], x0 : x0 + patch.shape[1]]
    patch[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = value
