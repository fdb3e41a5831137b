"""Labelled grids of story samples, for people."""

from __future__ import annotations

import textwrap

import cv2
import numpy as np
from torch import Tensor

from vstrain.systems.story.frames import caption_text

TILE, GAP, LINE = 112, 4, 13  # pixels
INK, PAPER, MARK = (40, 40, 40), 250, (214, 96, 32)


def tile(image: Tensor, marked: bool = False) -> np.ndarray:
    """(3, H, W) in [-1, 1] -> uint8 (TILE, TILE, 3); `marked` draws a frame."""
    pixels = ((image.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    pixels = pixels.permute(1, 2, 0).cpu().numpy()
    method = cv2.INTER_CUBIC if len(pixels) < TILE else cv2.INTER_AREA
    pixels = cv2.resize(np.ascontiguousarray(pixels), (TILE, TILE), interpolation=method)
    return cv2.rectangle(pixels, (0, 0), (TILE - 1, TILE - 1), MARK, 3) if marked else pixels


def label(lines: list[str], width: int, height: int | None = None) -> np.ndarray:
    """Small dark text on paper, uint8 (height, width, 3)."""
    canvas = np.full((height or LINE * len(lines) + GAP, width, 3), PAPER, dtype=np.uint8)
    for i, line in enumerate(lines):
        at = (3, LINE * (i + 1) - 3)
        cv2.putText(canvas, line, at, cv2.FONT_HERSHEY_SIMPLEX, 0.32, INK, 1, cv2.LINE_AA)
    return canvas


def beside(cells: list[np.ndarray]) -> np.ndarray:
    gap = np.full((cells[0].shape[0], GAP, 3), PAPER, dtype=np.uint8)
    return np.concatenate([part for cell in cells for part in (cell, gap)], axis=1)


def below(rows: list[np.ndarray]) -> np.ndarray:
    gap = np.full((GAP, rows[0].shape[1], 3), PAPER, dtype=np.uint8)
    return np.concatenate([part for row in rows for part in (row, gap)], axis=0)


def row(name: str, images: Tensor, marked: set[int] = frozenset()) -> np.ndarray:
    """One labelled row of pictures (K, 3, H, W)."""
    return beside([label([name], 76, TILE), *(tile(image, i in marked) for i, image in enumerate(images))])


def stories(rows: dict[str, Tensor], captions: np.ndarray) -> np.ndarray:
    """rows: name -> (S, K, 3, H, W); captions uint8 (S, K, bytes), printed under each story's pictures."""
    parts = []
    for story, texts in enumerate(captions):
        parts += [row(name, images[story]) for name, images in rows.items()]
        wrapped = [textwrap.wrap(caption_text(text), width=21) for text in texts]
        height = LINE * max(map(len, wrapped)) + 2 * GAP
        parts.append(beside([label([], 76, height), *(label(lines, TILE, height) for lines in wrapped)]))
    return below(parts)


def clips(rows: dict[str, Tensor], captions: np.ndarray, given: set[int]) -> np.ndarray:
    """rows: name -> (S, L, 3, H, W); captions uint8 (S, bytes). Frames in `given` get a frame."""
    parts = []
    for clip, text in enumerate(captions):
        block = [row(name, images[clip], given) for name, images in rows.items()]
        parts += [label([caption_text(text)], block[0].shape[1]), *block]
    return below(parts)
