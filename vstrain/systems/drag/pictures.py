"""What a person wants to see of a drag editor: what was asked, what came out, what really happened."""

from __future__ import annotations

import cv2
import numpy as np
from torch import Tensor

from vstrain.systems.drag.points import inside

TILE, GAP, HEADER = 192, 8, 26  # pixels
PAPER, INK = (255, 255, 255), (40, 40, 40)
HANDLE, TARGET, ARROW = (230, 50, 50), (40, 110, 240), (255, 255, 255)


def comparison(rows: dict[str, Tensor], edited: Tensor) -> np.ndarray:
    """A labelled grid, (H, W, 3) uint8, a row a sample: source, points and mask, candidates, truth.

    `rows`: source, target, mask, handles, targets as `prepare` makes them; `edited` uint8 (B, N, S, S, 3).
    """
    rows = {name: tensor.cpu().numpy() for name, tensor in rows.items()}
    candidates = edited.cpu().numpy()
    labels = ["source", "drag", *(f"result {n + 1}" for n in range(candidates.shape[1])), "true frame"]
    tiles = [
        [enlarge(rows["source"][b]), asked(*(rows[name][b] for name in ("source", "mask", "handles", "targets"))),
         *map(enlarge, candidates[b]), enlarge(rows["target"][b])]
        for b in range(len(candidates))
    ]  # fmt: skip
    return _grid(tiles, labels)


def asked(source: np.ndarray, mask: np.ndarray, handles: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The source (S, S, 3) with what may not change dimmed, and an arrow from every handle to its target."""
    picture = enlarge(np.where(mask[..., None], source, (source * 0.45 + 0.25 * 255).astype(np.uint8)))
    scale = TILE / len(source)
    used = inside(handles, *mask.shape)
    for handle, target in zip(handles[used], targets[used], strict=True):
        start, end = (tuple(np.rint((point + 0.5) * scale).astype(int).tolist()) for point in (handle, target))
        for colour, width in ((INK, 3), (ARROW, 1)):
            cv2.line(picture, start, end, colour, width, cv2.LINE_AA)
        for point, colour in ((start, HANDLE), (end, TARGET)):
            cv2.circle(picture, point, 4, ARROW, -1, cv2.LINE_AA)
            cv2.circle(picture, point, 3, colour, -1, cv2.LINE_AA)
    return picture


def enlarge(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(np.ascontiguousarray(picture), (TILE, TILE), interpolation=cv2.INTER_CUBIC)


def _grid(tiles: list[list[np.ndarray]], labels: list[str]) -> np.ndarray:
    step = TILE + GAP
    canvas = np.full((HEADER + len(tiles) * step, GAP + len(labels) * step, 3), PAPER, np.uint8)
    for column, label in enumerate(labels):
        x = GAP + column * step
        cv2.putText(canvas, label, (x, HEADER - 9), cv2.FONT_HERSHEY_DUPLEX, 0.5, INK, 1, cv2.LINE_AA)
        for row, line in enumerate(tiles):
            canvas[HEADER + row * step :][:TILE, x : x + TILE] = line[column]
    return canvas
