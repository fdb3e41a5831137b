"""How long a step waits for a checkpoint: `python -m benchmarks.engine.checkpoint [--millions 100] [--saves 5]`.

One process saves a model of so many million weights with Adam's two moments, in turn in the background and waiting, into the same
folder. Printed: seconds that the training thread was held, and their ratio. Beside it torch.save of the same state, flushed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from vstrain.config.schema import Checkpoint
from vstrain.data.stream import Share
from vstrain.engine.checkpoint import Saver
from vstrain.engine.checkpoint.pieces import piece

WIDTH = 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--millions", type=float, default=100, help="weights")
    parser.add_argument("--saves", type=int, default=5, help="of each kind")
    parser.add_argument("--folder", type=Path, default=None, help="where to write; default: a temporary folder")
    options = parser.parse_args()
    rows = max(1, round(options.millions * 1e6 / WIDTH / 24))
    weights = {f"block.{number}.weight": torch.randn(rows, WIDTH) for number in range(24)}
    moments = {f"{name}/{key}": torch.rand_like(x) for name, x in weights.items() for key in ("exp_avg", "exp_avg_sq")}
    state = {
        part: {name: piece(x, 0) for name, x in tensors.items()}
        for part, tensors in (("model", weights), ("optimizer", moments))
    }
    gigabytes = sum(x.numel() * 4 for tensors in (weights, moments) for x in tensors.values()) / 1e9
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        held, whole = measure(state, Path(folder), options.saves)
        bare = [
            torch_save({"model": weights, "optimizer": moments}, Path(folder) / "bare.pt") for _ in range(options.saves)
        ]
    print(f"{gigabytes:.2f} GB, {options.saves} saves of each kind, seconds (median; largest)")
    for name, seconds in (("in the background", held), ("waiting", whole), ("torch.save, flushed", bare)):
        print(f"  {name:<20} {statistics.median(seconds):8.3f} {max(seconds):8.3f}")
    print(
        f"a step is held {statistics.median(whole) / statistics.median(held):.1f} x shorter than by a save that waits"
    )


def measure(state: dict, folder: Path, saves: int) -> tuple[list[float], list[float]]:
    """Seconds of the calling thread: (in the background, waiting), without the first, which takes the memory."""
    saver = Saver(folder, Checkpoint(every=1, keep=1), {}, Share(), writers=1)
    held, whole = [], []
    for step in range(2 * saves + 1):
        saver.finish()
        waits = step % 2 == 0
        begin = time.perf_counter()
        saver.save(state, {"step": step, "values": {}}, wait=waits)
        if step:
            (whole if waits else held).append(time.perf_counter() - begin)
    saver.finish()
    return held, whole


def torch_save(state: dict, path: Path) -> float:
    begin = time.perf_counter()
    torch.save(state, path)
    number = os.open(path, os.O_RDONLY)
    os.fsync(number)
    os.close(number)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
