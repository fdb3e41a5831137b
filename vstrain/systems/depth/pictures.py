"""Coloured disparity and the picture grid of the depth system."""

from __future__ import annotations

import cv2
import numpy as np
from torch import Tensor

# ColorBrewer's Spectral, far (blue) to near (red)
_ANCHORS = "5e4fa2 3288bd 66c2a5 abdda4 e6f598 ffffbf fee08b fdae61 f46d43 d53e4f 9e0142"
_SPECTRAL = np.array([list(bytes.fromhex(code)) for code in _ANCHORS.split()], np.float32)
_HEADINGS = ("image", "truth", "prediction", "error of 1/depth")
_TILE, _GAP, _HEAD = 252, 6, 34  # pixels
_VIEW = 1600  # pixels: longest side of a photo in `beside`


def colour(disparity: np.ndarray) -> np.ndarray:
    """uint8 RGB (H, W, 3) of a map in [0, 1]; 0 is blue and far, 1 is red and near."""
    position = np.clip(disparity, 0, 1) * (len(_SPECTRAL) - 1)
    low = np.minimum(position.astype(int), len(_SPECTRAL) - 2)
    share = (position - low)[..., None]
    return np.rint(_SPECTRAL[low] * (1 - share) + _SPECTRAL[low + 1] * share).astype(np.uint8)


def beside(photo: np.ndarray, coloured: np.ndarray) -> np.ndarray:
    """The photo and its coloured map (H, W, 3) beside each other, at most 1600 pixels a side each."""
    share = min(1, _VIEW / max(photo.shape[:2]))
    size = tuple(max(1, round(side * share)) for side in photo.shape[1::-1])
    left, right = (cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (photo, coloured))
    return np.concatenate((left, np.full((size[1], 8, 3), 255, np.uint8), right), axis=1)


def comparison(rows: dict[str, Tensor], fitted: Tensor, truth: Tensor) -> np.ndarray:
    """One row a sample: image | truth | prediction | error, of true disparity and the prediction fitted to it (B, H, W),
    in the same colours; errors are absolute, from black to white at a quarter of the truth's range. Invalid is
    grey."""
    columns = (rows["image"], truth, fitted, rows["valid"], rows["span"])
    tiles = [_row(*row) for row in zip(*(column.cpu().numpy() for column in columns), strict=True)]
    return _sheet(tiles, _HEADINGS)


def _row(image, truth, fitted, valid, span) -> list[np.ndarray]:
    low, width = span[0], max(span[1] - span[0], 1e-6)
    error = np.clip(4 * np.abs(fitted - truth) / width, 0, 1)
    heat = cv2.applyColorMap(np.uint8(255 * error), cv2.COLORMAP_INFERNO)[:, :, ::-1]
    grey = np.full_like(image, 128)
    mask = valid[..., None]
    return [
        image,
        np.where(mask, colour((truth - low) / width), grey),
        colour((fitted - low) / width),
        np.where(mask, heat, grey),
    ]


def _sheet(rows: list[list[np.ndarray]], headings: tuple[str, ...]) -> np.ndarray:
    """Tiles side by side on white, a heading over each column."""
    step = _TILE + _GAP
    sheet = np.full((_HEAD + step * len(rows), step * len(headings) + _GAP, 3), 255, np.uint8)
    for column, heading in enumerate(headings):
        origin = (_GAP + column * step + 2, _HEAD - 11)
        cv2.putText(sheet, heading, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (40, 40, 40), 1, cv2.LINE_AA)
    for i, tiles in enumerate(rows):
        for column, tile in enumerate(tiles):
            top, left = _HEAD + i * step, _GAP + column * step
            resized = cv2.resize(tile, (_TILE, _TILE), interpolation=cv2.INTER_CUBIC)
            sheet[top : top + _TILE, left : left + _TILE] = resized
    return sheet
