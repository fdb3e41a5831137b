"""The sampling picture: what an object was seen from, what was asked for, what came, and the truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CELL = 112  # pixels of a view on the sheet
GAP, BLOCK_GAP, HEAD, CAPTION = 6, 26, 34, 18
INK, FAINT, LINE, PAPER = (28, 30, 36), (120, 124, 134), (222, 222, 218), (250, 250, 248)
ANSWERS = 2  # target views of an object that are shown


class Column(NamedTuple):
    title: str
    left: int  # pixels
    pictures: Tensor  # (B, 3, H, W) in [-1, 1]
    frame: int  # whose pose is written below


def view_grid(batch: dict[str, Tensor], sampled: Tensor) -> np.ndarray:
    """One row an object: condition views | sampled and true view for up to two targets.

    sampled (B, T, 3, H, W) in [-1, 1] -> (H, W, 3) uint8. Azimuths are relative to the first condition view.
    """
    columns = _columns(batch, sampled)
    rows, targets = sampled.shape[:2]
    height = HEAD + rows * (CELL + CAPTION + GAP) + GAP
    sheet = Image.new("RGB", (columns[-1].left + CELL + BLOCK_GAP, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    head, small = ImageFont.load_default(15), ImageFont.load_default(11)
    for column in columns:
        draw.text((column.left, 10), column.title, INK, head)
        for row in range(rows):
            x, y = column.left, HEAD + row * (CELL + CAPTION + GAP)
            absent = column.frame >= targets and not batch["present"][row, column.frame - targets]
            label = "absent" if absent else _pose(batch["code"][row, column.frame])
            draw.text((x, y + CELL + 2), label, FAINT, small)
            if not absent:
                sheet.paste(_cell(column.pictures[row]), (x, y))
            draw.rectangle((x, y, x + CELL - 1, y + CELL - 1), outline=LINE)
    return np.asarray(sheet)


def _columns(batch: dict[str, Tensor], sampled: Tensor) -> list[Column]:
    targets, columns, left = sampled.shape[1], [], BLOCK_GAP
    for c in range(batch["conditions"].shape[1]):
        title = "" if c else "condition views"
        columns.append(Column(title, left, batch["conditions"][:, c], targets + c))
        left += CELL + GAP
    for j in range(min(targets, ANSWERS)):
        left += BLOCK_GAP - GAP
        for title, pictures in (("sampled", sampled), ("truth", batch["targets"])):
            columns.append(Column(title, left, pictures[:, j], j))
            left += CELL + GAP
    return columns


def _cell(picture: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1] -> CELL x CELL."""
    pixels = (picture.float().cpu().permute(1, 2, 0).clamp(-1, 1) + 1) * 127.5
    image = Image.fromarray(pixels.round().numpy().astype(np.uint8))
    return image.resize((CELL, CELL), Image.Resampling.BICUBIC)


def _pose(code: Tensor) -> str:
    """What a pose code (10,) says."""
    elevation, azimuth = (int(code[i].atan2(code[i + 3]).rad2deg().round()) for i in (4, 5))
    return f"az {azimuth:+d}  el {elevation:+d}"
