"""The state of a run as pieces: for every tensor, by its full name, the run of elements that this rank holds.

Sharded by rows (FSDP2), cut anywhere (ZeRO) or whole, it is the same thing; so what one strategy saved, on any number of ranks,
another can read. A piece is a view of live memory: saving copies out of it, loading into it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from vstrain.config import tensorfiles
from vstrain.config.problems import InputError

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Piece:
    tensor: Tensor  # any memory layout; in row-major order, elements [start, start + numel) of the whole
    shape: tuple[int, ...]  # of the whole
    start: int
    owned: bool  # whether this rank writes it

    @property
    def whole(self) -> bool:
        return self.tensor.numel() == math.prod(self.shape)


def piece(value: Tensor | Piece, rank: int) -> Piece:
    """The local part of a tensor or DTensor. Equal copies are written by the first rank that holds them."""
    if isinstance(value, Piece):
        return value
    if not isinstance(value, DTensor):
        return Piece(value.detach(), tuple(value.shape), 0, rank == 0)
    place = value.device_mesh.get_coordinate()
    owned = True
    for dimension, placement in enumerate(value.placements):
        if placement.is_replicate():
            owned = owned and place[dimension] == 0
        elif placement != Shard(0):
            raise NotImplementedError(f"a tensor that is placed as {placement}")
    local = value.to_local().detach()
    first_row = value.__create_chunk_list__()[0].offsets[0] if local.numel() else 0
    return Piece(local, tuple(value.shape), first_row * math.prod(value.shape[1:]), owned)


class Reader:
    """The tensors of some files, mapped into memory and copied from there."""

    def __init__(self, files: list[Path]):
        self.entries = tensorfiles.entries(files)
        self._maps: dict[Path, torch.UntypedStorage] = {}

    def fill(self, name: str, target: Piece) -> None:
        """Copy what `target` covers of tensor `name` into it. InputError when there is none of its shape."""
        parts = self.entries.get(name)
        if parts is None or parts[0].shape != target.shape:
            found = "is not there" if parts is None else f"has shape {list(parts[0].shape)}"
            raise InputError(
                f"the checkpoint does not fit this run: {name} {found}, expected {list(target.shape)}; resume with the keys "
                "that it was trained with"
            )
        flat = torch.empty(target.tensor.numel(), dtype=self.dtype(name))
        end = target.start + len(flat)
        for entry in parts:
            low, high = max(entry.start, target.start), min(entry.start + entry.count, end)
            if low < high:
                source = self._elements(entry)
                flat[low - target.start : high - target.start] = source[low - entry.start : high - entry.start]
        with torch.no_grad():
            target.tensor.copy_(flat.view(target.tensor.shape))

    def dtype(self, name: str) -> torch.dtype:
        return next(dtype for dtype, text in DTYPES.items() if text == self.entries[name][0].dtype)

    def _elements(self, entry: tensorfiles.Entry) -> Tensor:
        if entry.file not in self._maps:
            self._maps[entry.file] = torch.UntypedStorage.from_file(str(entry.file), False, entry.file.stat().st_size)
        size = tensorfiles.BYTES[entry.dtype]
        dtype = next(dtype for dtype, text in DTYPES.items() if text == entry.dtype)
        return torch.empty(0, dtype=dtype).set_(
            self._maps[entry.file], entry.offset // size, (entry.count,)
        )  # every entry is aligned to its own width


class Snapshot:
    """Copies of pieces in host memory, which is kept for the next snapshot (pinned, when they come from a GPU)."""

    def __init__(self):
        self._memory: dict[tuple[str, str], Tensor] = {}

    def take(self, state: dict[str, dict[str, Piece]]) -> dict[str, dict[str, Piece]]:
        """What this rank writes of every part of the state."""
        taken = {
            part: {
                name: Piece(self._copy((part, name), one.tensor), one.shape, one.start, True)
                for name, one in pieces.items()
                if one.owned and (one.tensor.numel() or one.whole)
            }
            for part, pieces in state.items()
        }
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return taken

    def _copy(self, key: tuple[str, str], source: Tensor) -> Tensor:
        target = self._memory.get(key)
        if target is None or target.shape != source.shape or target.dtype != source.dtype:
            target = torch.empty(source.shape, dtype=source.dtype, pin_memory=source.is_cuda)
            self._memory[key] = target
        return target.copy_(source, non_blocking=True)
