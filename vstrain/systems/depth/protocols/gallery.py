"""The picture of a protocol: its best and its worst images, each a row of tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vstrain.systems.depth.pictures import colour

BOX = (320, 240)  # pixels, width and height at most, of a tile
GAP, LINE, HEAD, INDENT = 10, 24, 74, 62  # pixels: between tiles, over a row, over all rows, after a row's label
INK, FAINT, GREY = (30, 30, 30), (110, 110, 110), (205, 205, 205)
RIGHT, WRONG = (26, 152, 80), (215, 25, 28)
FULL_ERROR = 0.5  # relative error at the end of the colours
DENSE = ("image", "truth", "prediction", "relative error")
ORDINAL = ("ring nearer, dot farther; red is wrong", "prediction")


@dataclass(frozen=True)
class Row:
    label: str
    line: str
    tiles: list[np.ndarray]


class Gallery:
    """Keeps the tiles of the `rows` images of the smallest and of the largest cost."""

    def __init__(self, rows: int):
        self.rows, self._kept = rows, []  # (cost, number, line, tiles), the smallest cost first

    def offer(self, cost: float, line: str, tiles: Callable[[], list[np.ndarray]]) -> None:
        """`tiles` is called when the image is among those that are kept, so far. line: stands over its row."""
        number = sum(entry[0] <= cost for entry in self._kept)
        full = len(self._kept) == 2 * self.rows
        if full and number == self.rows:
            return
        self._kept.insert(number, (cost, line, tiles()))
        if full:
            del self._kept[self.rows]

    def sheet(self, title: str) -> np.ndarray:
        """uint8 RGB; an empty (1, 1, 3) without images."""
        if not self._kept:
            return np.full((1, 1, 3), 255, np.uint8)
        best = self._kept[: min(self.rows, (len(self._kept) + 1) // 2)]
        worst = self._kept[len(best) :][::-1]
        labels = [f"best {n}" for n in range(1, len(best) + 1)] + [f"worst {n}" for n in range(1, len(worst) + 1)]
        rows = [Row(label, line, tiles) for label, (_, line, tiles) in zip(labels, best + worst, strict=True)]
        return _sheet(title, rows)


def dense_tiles(
    photo: np.ndarray, truth: np.ndarray, predicted: np.ndarray, error: np.ndarray, counted: np.ndarray
) -> list[np.ndarray]:
    """Tiles of a photo (H, W, 3) and of disparity and relative error (h, w), in the colours of the true range; grey where
    nothing counts. Sparse truth is averaged over the pixels that count within each pixel of the tile."""
    size = tile_size(*counted.shape)
    low, high = np.percentile(truth[counted], (1, 99))
    width = max(high - low, 1e-6)
    error, shown = _pool(error, counted, size)
    truth, _ = _pool(truth, counted, size)
    heat = _heat(error / FULL_ERROR)
    grey = np.full_like(heat, GREY)
    return [
        _resize(photo, size),
        np.where(shown[..., None], colour((truth - low) / width), grey),
        colour((_resize(predicted, size) - low) / width),
        np.where(shown[..., None], heat, grey),
    ]


def ordinal_tiles(photo: np.ndarray, nearness: np.ndarray, pairs, right: list[bool]) -> list[np.ndarray]:
    """The photo with its pairs, green where the order is right and red where it is wrong, and the prediction over its
    range."""
    size = tile_size(*nearness.shape)
    low, high = float(nearness.min()), float(nearness.max())
    unit = (_resize(nearness, size) - low) / max(high - low, 1e-6)
    return [_marked(tile, nearness.shape, pairs, right) for tile in (_resize(photo, size), colour(unit))]


def tile_size(height: int, width: int) -> tuple[int, int]:
    """(width, height) of a tile that keeps the aspect ratio within BOX."""
    share = min(BOX[0] / width, BOX[1] / height)
    return max(1, round(width * share)), max(1, round(height * share))


def _resize(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shrink = size[0] < x.shape[1]
    return cv2.resize(x.astype(np.float32), size, interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR).astype(
        x.dtype
    )


def _pool(x: np.ndarray, counted: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(mean of x over the counted pixels of each cell, whether there are any). A cell without any takes the mean of its
    neighbours: scanners leave gaps that would speckle a tile."""
    how = cv2.INTER_AREA if size[0] < x.shape[1] else cv2.INTER_NEAREST
    share = cv2.resize(counted.astype(np.float32), size, interpolation=how)
    total = cv2.resize(np.where(counted, x, 0).astype(np.float32), size, interpolation=how)
    gap = share == 0
    total[gap], share[gap] = cv2.blur(total, (3, 3))[gap], cv2.blur(share, (3, 3))[gap]
    return total / np.maximum(share, 1e-6), share > 1e-6


def _marked(tile: np.ndarray, shape: tuple[int, int], pairs, right: list[bool]) -> np.ndarray:
    """Drawn at four times the size and averaged down, so that lines are smooth."""
    fine = 4
    height, width = tile.shape[:2]
    canvas = Image.fromarray(tile).resize((width * fine, height * fine), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(canvas)
    for pair, good in zip(pairs, right, strict=True):
        ink = RIGHT if good else WRONG
        ends = [((c + 0.5) / shape[1] * width * fine, (r + 0.5) / shape[0] * height * fine) for r, c in pair]
        draw.line(ends, fill="white", width=3 * fine)
        draw.line(ends, fill=ink, width=int(1.5 * fine))
        for (x, y), radius, fill in ((ends[0], 6 * fine, None), (ends[1], 3.5 * fine, ink)):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill, "white", width=fine)
            inner = radius - fine
            draw.ellipse((x - inner, y - inner, x + inner, y + inner), fill, ink, width=2 * fine)
    return np.asarray(canvas.resize((width, height), Image.Resampling.BOX))


def _sheet(title: str, rows: list[Row]) -> np.ndarray:
    headings = DENSE if len(rows[0].tiles) == len(DENSE) else ORDINAL
    large, small = (ImageFont.load_default(size) for size in (16, 13))
    step = max(tile.shape[1] for row in rows for tile in row.tiles) + GAP
    heights = [LINE + max(tile.shape[0] for tile in row.tiles) + GAP for row in rows]
    text = max(large.getlength(title), *(INDENT + small.getlength(row.line) for row in rows))
    sheet = Image.new("RGB", (round(max(GAP + step * len(headings), 2 * GAP + text)), HEAD + sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 14), title, INK, large)
    for column, heading in enumerate(headings):
        draw.text((GAP + column * step, 48), heading, INK, small)
    if headings is DENSE:
        _scale(sheet, draw, GAP + (len(headings) - 1) * step + 105, 48, small)
    top = HEAD
    for row, height in zip(rows, heights, strict=True):
        draw.text((GAP, top + 3), row.label, INK, small)
        draw.text((GAP + INDENT, top + 3), row.line, FAINT, small)
        for column, tile in enumerate(row.tiles):
            sheet.paste(Image.fromarray(tile), (GAP + column * step, top + LINE))
        top += height
    return np.asarray(sheet)


def _scale(sheet: Image.Image, draw: ImageDraw.ImageDraw, left: int, top: int, font: ImageFont.FreeTypeFont) -> None:
    """The colours of the error, from 0 to FULL_ERROR."""
    bar = np.tile(np.linspace(0, 1, 100), (10, 1))
    draw.text((left, top), "0", FAINT, font)
    sheet.paste(Image.fromarray(_heat(bar)), (left + 12, top + 4))
    draw.text((left + 118, top), f"{FULL_ERROR:.0%}", FAINT, font)


def _heat(x: np.ndarray) -> np.ndarray:
    """uint8 RGB of a map in [0, 1]."""
    return cv2.applyColorMap(np.uint8(255 * np.clip(x, 0, 1)), cv2.COLORMAP_INFERNO)[:, :, ::-1]
