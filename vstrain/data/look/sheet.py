"""The contact sheet: samples from all over a data set on one picture, below the facts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vstrain.data import codecs
from vstrain.data.atomic import write_file
from vstrain.data.index import Index
from vstrain.data.look import canvas
from vstrain.data.look.facts import Facts, facts, size_text, span, spread_over
from vstrain.data.look.tiles import COLUMNS, PLAIN_COLUMNS, tile
from vstrain.data.problems import DataError
from vstrain.data.reader import Reader

WIDTH, MARGIN, BETWEEN = 1600, 28, 14


def sheet(index: Index, samples: int) -> np.ndarray:
    """uint8 (H, 1600, 3) with at most `samples` samples, spread evenly over the index: the same ones every time."""
    known, reader = facts(index), Reader(index)
    columns = COLUMNS.get(known.kind, PLAIN_COLUMNS)
    width = (WIDTH - 2 * MARGIN - BETWEEN * (columns - 1)) // columns
    tiles = [tile(reader.read(n), known.kind, width) for n in spread_over(len(index), samples)]
    rows = [tiles[first : first + columns] for first in range(0, len(tiles), columns)]
    head = _head(known, len(tiles))
    height = len(head) + sum(max(map(len, row)) + BETWEEN for row in rows) + MARGIN
    out = canvas.blank(WIDTH, height)
    canvas.paste(out, head, 0, 0)
    y = len(head)
    for row in rows:
        for place, part in enumerate(row):
            canvas.paste(out, part, MARGIN + place * (width + BETWEEN), y)
        y += max(map(len, row)) + BETWEEN
    return out


def _head(known: Facts, shown: int) -> np.ndarray:
    out = canvas.blank(WIDTH, 92)
    title = f"{known.samples} samples of kind {known.kind}" if known.kind else f"{known.samples} samples"
    canvas.write(out, MARGIN, 20, title, 26)
    parts = [f"{known.shards} shard{'s' * (known.shards > 1)}", size_text(known.bytes)]
    if known.widths:
        parts.append(f"{span(*known.widths)} x {span(*known.heights)} pixels")
    parts += [f"fingerprint {known.fingerprint}", f"{shown} shown"]
    canvas.write(out, MARGIN, 58, canvas.wrap("   ·   ".join(parts), 14, WIDTH - 2 * MARGIN, 1), 14, canvas.GREY)
    return out


def save(picture: np.ndarray, path: Path) -> Path:
    """Write a picture as PNG, making its folder. Raises DataError where that is not possible."""
    path = Path(path).expanduser().absolute()
    if path.suffix.lower() != ".png":
        raise DataError(f"{path}: the picture is written as PNG; give a name that ends in .png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, codecs.encode("sheet.png", picture))
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); name another file") from error
    return path
