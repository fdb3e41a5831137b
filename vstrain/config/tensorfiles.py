"""Tensors on disk, without torch: safetensors files, in which an entry may be a piece of a tensor.

A piece is a run of a tensor's elements in row-major order, however the tensor was sharded. Such an entry is one-dimensional,
and the file's metadata has, under `pieces`, the shape of the whole and where the run starts. Any safetensors reader opens the
files; `entries` says what is where, and `consolidate` joins pieces by copying bytes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vstrain.config.problems import InputError

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
BLOCK = 1 << 24  # bytes copied at a time


@dataclass(frozen=True)
class Entry:
    """Elements [start, start + count) of a tensor, from byte `offset` of `file` on."""

    file: Path
    dtype: str
    shape: tuple[int, ...]  # of the whole tensor
    start: int
    count: int
    offset: int


@dataclass(frozen=True)
class Layout:
    """One entry that a file shall have. start None: the tensor is whole."""

    dtype: str
    shape: tuple[int, ...]
    start: int | None
    count: int


def header(layouts: dict[str, Layout]) -> tuple[bytes, list[str]]:
    """(the bytes before the data, the order of the data): wide types first, so that every entry is aligned."""
    order = sorted(layouts, key=lambda name: (-BYTES[layouts[name].dtype], name))
    table: dict[str, dict] = {}
    pieces = {name: {"shape": one.shape, "start": one.start} for name, one in layouts.items() if one.start is not None}
    if pieces:
        table["__metadata__"] = {"pieces": json.dumps(pieces)}
    end = 0
    for name in order:
        one = layouts[name]
        begin, end = end, end + one.count * BYTES[one.dtype]
        shape = one.shape if one.start is None else [one.count]
        table[name] = {"dtype": one.dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


def entries(files: Iterable[Path]) -> dict[str, list[Entry]]:
    """Every tensor of the files, its pieces in order. Raises InputError for one that is not covered exactly once."""
    found: dict[str, list[Entry]] = {}
    for path in files:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            table = json.loads(file.read(length))
        pieces = json.loads(table.pop("__metadata__", {}).get("pieces", "{}"))
        for name, one in table.items():
            piece = pieces.get(name, {"shape": one["shape"], "start": 0})
            count, offset = math.prod(one["shape"]), 8 + length + one["data_offsets"][0]
            found.setdefault(name, []).append(
                Entry(path, one["dtype"], tuple(piece["shape"]), piece["start"], count, offset)
            )
    for name, parts in found.items():
        parts.sort(key=lambda entry: entry.start)
        ends = [0, *(entry.start + entry.count for entry in parts)]
        if [entry.start for entry in parts] != ends[:-1] or ends[-1] != math.prod(parts[0].shape):
            raise InputError(f"{parts[0].file.parent}: the pieces of {name} do not make it up; use another checkpoint")
    return found


def consolidate(files: Iterable[Path], target: Path) -> None:
    """The tensors of `files`, whole, as the safetensors file `target`, in place of one that is there. Holds one block of
    bytes in memory, not a tensor."""
    tensors = entries(files)
    layouts = {
        name: Layout(parts[0].dtype, parts[0].shape, None, math.prod(parts[0].shape)) for name, parts in tensors.items()
    }
    head, order = header(layouts)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as out:
            out.write(head)
            for entry in (entry for name in order for entry in tensors[name]):
                _copy(entry, out)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"{target}: cannot write the joined weights ({error}); free disk space, or copy the checkpoint to a folder "
            "that can be written"
        ) from error


def _copy(entry: Entry, out) -> None:
    left = entry.count * BYTES[entry.dtype]
    with entry.file.open("rb") as file:
        file.seek(entry.offset)
        while left:
            block = file.read(min(left, BLOCK))
            if not block:
                raise OSError(f"{entry.file} is too short")
            out.write(block)
            left -= len(block)
