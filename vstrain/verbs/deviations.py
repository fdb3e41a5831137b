"""How far two runs are apart: their logged losses and their last weights. Without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vstrain.config import checkpoints, tensorfiles

PARTS = ("model", "ema")
# of floats; bfloat16 by its bits
TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


@dataclass(frozen=True)
class Deviation:
    loss: float  # largest relative difference of a loss of some step
    absolute: float  # largest difference of two weights
    relative: float  # norm of all differences of weights, in units of how far the weights went
    equal: bool  # bit for bit, losses and weights


def deviation(run: Path, reference: Path, begin: str) -> Deviation:
    """Of `run` from `reference`. begin: name of the reference's checkpoint from which on it counts how far weights went."""
    first, last = losses(reference), losses(run)
    if first.keys() != last.keys():
        odd = sorted(first.keys() ^ last.keys())[0]
        raise ValueError(f"{run}: only one of the two runs has {odd}")
    loss = max(abs(last[key] - value) / max(abs(value), 1e-12) for key, value in first.items())
    absolute, apart, went, equal = 0.0, 0.0, 0.0, first == last
    for part in PARTS:
        mine, other, start = (
            tensorfiles.entries(checkpoints.files(folder, part))
            for folder in (run / "checkpoints/last", reference / "checkpoints/last", reference / "checkpoints" / begin)
        )
        if mine.keys() != other.keys():
            raise ValueError(f"{run}: only one of the two runs has {sorted(mine.keys() ^ other.keys())[0]}")
        for name in other.keys() & start.keys():
            a, b, c = (read(found[name]) for found in (mine, other, start))
            if not a.size:
                continue
            equal = equal and np.array_equal(a, b, equal_nan=True)
            absolute = max(absolute, float(np.abs(a - b).max()))
            apart += float(np.square(a - b).sum())
            went += float(np.square(b - c).sum())
    return Deviation(loss, absolute, (apart / went) ** 0.5 if went else float(apart > 0), equal)


def losses(run: Path) -> dict[tuple[int, str], float]:
    """(step, name) -> value of everything that the run logged as a loss."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {(line["step"], name): value for line in lines for name, value in line.items() if name.endswith("/loss")}


def read(pieces: list[tensorfiles.Entry]) -> np.ndarray:
    """All elements of a tensor in a row, as float64."""
    out = []
    for entry in pieces:
        kind = TYPES.get(entry.dtype)
        if kind is None or not entry.count:
            continue  # integers are counters and tables: the losses tell
        values = np.memmap(entry.file, kind, "r", entry.offset, (entry.count,))
        if entry.dtype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        out.append(values.astype(np.float64))
    return np.concatenate(out) if out else np.empty(0)
