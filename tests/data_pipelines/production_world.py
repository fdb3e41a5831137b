"""A tiny production, also as a command: python -m tests.data_pipelines.production_world OUT [KEY=VALUE …]."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from data_pipelines.executors import Execution
from data_pipelines.production.plan import Made, Plan, Rejected
from data_pipelines.production.produce import produce

TRAIN, VAL, SHARD = 60, 20, 8
UNFINISHED = 3  # exit code of a job that leaves the rest to others
ALL_REJECTED = range(16, 24)  # a whole task of train


def rejected(split: str, n: int) -> bool:
    return n % 7 == 3 or (split == "train" and n in ALL_REJECTED)


def make(place: tuple[str, int], log: str = "", seconds: float = 0.0) -> Made | Rejected:
    """Sample `n` of a split. log: a file in which every call leaves a line."""
    split, n = place
    time.sleep(seconds)
    if log:
        with open(log, "a") as file:  # noqa: PTH123
            file.write(f"{split} {n} {os.getpid()}\n")
    if rejected(split, n):
        return Rejected(f"{split}/{n}", "odd" if n % 2 else "even", f"{split}/{n}: is unwanted; expected another")
    rng = np.random.default_rng([n, split == "val"])
    sample = {
        "__key__": f"{split}{n:03d}",
        "png": rng.integers(0, 256, (16, 16, 3), dtype=np.uint8),
        "depth.pco": rng.random((16, 16), dtype=np.float32),
        "json": {"unit": "depth"},
    }
    return Made(sample, ("even number",) if n % 2 == 0 else (), {"n": float(n)})


def plan(**changes) -> Plan:
    inputs = {"train": [("train", n) for n in range(TRAIN)], "val": [("val", n) for n in range(VAL)]}
    unpaired = (Rejected("lone", "without partner", "lone: has no partner; add one"),)
    values = {"pipeline": "tiny", "kind": "depth", "config": {"size": 16}, "inputs": inputs, "shard_samples": SHARD}
    values |= {"shard_bytes": 4000, "jpeg_quality": 90, "rejected": unpaired, "left_out": 3}
    return Plan(**(values | changes))


def execution(executor: str = "in_process", processes: int | None = 2, part: str = "all") -> Execution:
    return Execution(executor=executor, processes=processes, part=part)


def run(out: Path, make=make, overwrite: bool = False, progress=lambda *_: None, changes=None, **where):
    return produce(plan(**(changes or {})), make, Path(out), execution(**where), overwrite, progress)


def tree(out: Path) -> dict[str, bytes]:
    """Every file below `out`."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(Path(out).rglob("*")) if path.is_file()}


if __name__ == "__main__":
    keys = dict(word.split("=", 1) for word in sys.argv[2:])
    slow = partial(make, log=keys.pop("log", ""), seconds=float(keys.pop("seconds", 0)))
    if "gate" in keys:  # wait until everybody is here
        gate = Path(keys.pop("gate"))
        (gate / str(os.getpid())).touch()
        while not (gate / "open").exists():
            time.sleep(0.001)
    outcome = run(Path(sys.argv[1]), slow, **keys)
    sys.exit(0 if outcome.summary else UNFINISHED)
