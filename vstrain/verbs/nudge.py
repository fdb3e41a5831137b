"""A run that goes on from the first checkpoint of another, with the last bits of its weights changed: what rounding alone does
to an experiment. Without torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from vstrain.config import checkpoints, tensorfiles
from vstrain.verbs.deviations import TYPES


def nudged(run: Path, reference: Path, step: int, seed: int) -> None:
    """Make the run directory `run` begin where `reference` was after `step`, each weight's last bit flipped or not by chance.
    The model must be whole there, as one process saves it."""
    name = checkpoints.name(step)
    folder = run / "checkpoints" / name
    shutil.copytree(reference / "checkpoints" / name, folder)
    lines = (reference / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] <= step))
    file, chance = folder / checkpoints.WEIGHTS, np.random.default_rng(seed)
    for (entry,) in tensorfiles.entries([file]).values():
        if entry.dtype in TYPES and entry.count:
            bits = np.memmap(file, f"u{tensorfiles.BYTES[entry.dtype]}", "r+", entry.offset, (entry.count,))
            bits ^= chance.integers(0, 2, entry.count, dtype=bits.dtype)
            bits.flush()
    checkpoints.accept(file)
