"""A photo seen from a little aside: forward warping in which the nearer surface wins, and the holes behind it are filled
from the background."""

from __future__ import annotations

import cv2
import numpy as np

BAND = 256  # rows warped at a time, so that memory stays bounded
SOFT = 5  # pixels: what is filled in row by row is averaged over so many rows


def shifted(
    picture: np.ndarray, unit: np.ndarray, right: float, down: float, plane: float, edge: float
) -> tuple[np.ndarray, np.ndarray]:
    """(picture uint8 (H, W, 3), disparity float32 (H, W)) from a camera that moved so that the nearest points move `right`
    and `down` pixels against the farthest, and points of disparity `plane` rest. Disparity runs from 0, far, to 1;
    neighbours that differ by more than `edge` are different surfaces."""
    if right:
        picture, unit = shift_rows(picture, unit, right, plane, edge)
    if down:
        turned = shift_rows(_turn(picture), _turn(unit), down, plane, edge)
        picture, unit = _turn(turned[0]), _turn(turned[1])
    return picture, unit


def shift_rows(
    picture: np.ndarray, unit: np.ndarray, amount: float, plane: float, edge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Every point moved by amount (disparity - plane) pixels to the right."""
    bands = []
    for top in range(0, len(unit), BAND):
        rows = slice(top, top + BAND)
        bands.append(fill(*warp_rows(picture[rows], unit[rows], amount, plane, edge), edge))
    return tuple(np.concatenate(parts) for parts in zip(*bands, strict=True))


def warp_rows(
    picture: np.ndarray, unit: np.ndarray, amount: float, plane: float, edge: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `shift_rows`, with what no source pixel covers left black: (picture, disparity, hole bool (H, W)). A row is
    continuous between neighbours of one surface, so a surface that stretches has no cracks; where several surfaces land on
    one pixel, the nearest stays."""
    height, width = unit.shape
    target = np.arange(width, dtype=np.float32) + np.float32(amount) * (unit - np.float32(plane))
    start, end = target[:, :-1], target[:, 1:]
    joined = (np.abs(np.diff(unit)) <= edge) & (end > start)
    first = np.ceil(start).astype(np.int32)
    reach = np.where(joined, np.floor(end).astype(np.int32) - first, -1)  # pixels covered beyond the first
    near = np.rint(np.maximum(unit[:, :-1], unit[:, 1:]) * 65535).astype(np.int64)
    key = (near << 32 | np.arange(width - 1)).reshape(-1)  # the largest is nearest
    winner = np.full(height * width, -1, np.int64)
    reach, first = reach.reshape(-1), first.reshape(-1)
    pairs = np.flatnonzero(reach >= 0)
    for step in range(int(reach.max(initial=-1)) + 1):
        pairs = pairs[reach[pairs] >= step]
        at = first[pairs] + step
        inside = (at >= 0) & (at < width)
        at, chosen = at[inside], pairs[inside]
        np.maximum.at(winner, chosen // (width - 1) * width + at, key[chosen])
    hole = winner < 0
    left = np.where(hole, 0, winner & 0xFFFFFFFF) + np.repeat(np.arange(height) * width, width)
    position, values, colours = target.reshape(-1), unit.reshape(-1), picture.reshape(-1, 3)
    begin, length = position[left], position[left + 1] - position[left]
    share = (np.tile(np.arange(width, dtype=np.float32), height) - begin) / np.where(hole, 1, length)
    share = np.where(hole, np.float32(0), share.clip(0, 1))
    moved = np.where(hole, 0, values[left] * (1 - share) + values[left + 1] * share)
    mixed = cv2.blendLinear(colours[left][None], colours[left + 1][None], (1 - share)[None], share[None])[0]
    mixed[hole] = 0
    return mixed.reshape(picture.shape), moved.reshape(unit.shape), hole.reshape(unit.shape)


def fill(picture: np.ndarray, unit: np.ndarray, hole: np.ndarray, edge: float) -> tuple[np.ndarray, np.ndarray]:
    """Holes filled along the rows from the farther of their two sides: its colours are mirrored at the rim as long as they
    belong to the same surface, else the rim's own is repeated. What is filled hangs on the background, so it stays put
    while the camera moves."""
    width = unit.shape[1]
    columns = np.arange(width)
    left = np.maximum.accumulate(np.where(hole, -1, columns), axis=1)
    right = np.minimum.accumulate(np.where(hole, width, columns)[:, ::-1], axis=1)[:, ::-1]
    row, column = np.nonzero(hole)
    left, right = left[row, column], right[row, column]
    depths = [
        np.where((side >= 0) & (side < width), unit[row, side.clip(0, width - 1)], np.inf) for side in (left, right)
    ]
    from_left = depths[0] <= depths[1]
    rim = np.where(from_left, left, right).clip(0, width - 1)
    mirrored = 2 * rim - column + np.where(from_left, 1, -1)
    inside = mirrored.clip(0, width - 1)
    same = (mirrored == inside) & ~hole[row, inside] & (np.abs(unit[row, inside] - unit[row, rim]) <= edge)
    picture[row, column] = picture[row, np.where(same, inside, rim)]
    unit[row, column] = unit[row, rim]
    soft = cv2.boxFilter(picture * hole[..., None].astype(np.float32), -1, (1, SOFT), normalize=False)
    count = cv2.boxFilter(hole.astype(np.float32), -1, (1, SOFT), normalize=False)
    picture[row, column] = np.rint(soft[row, column] / count[row, column, None]).astype(np.uint8)
    return picture, unit


def _turn(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values.swapaxes(0, 1))
