"""Shared by all tests: a tiny depth data set, the plug-in system, and `vstrain` as a command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

PLUGIN = Path(__file__).parent / "plugin"
# a shipped experiment in seconds
TINY = [
    *("trainer.max_steps=2", "trainer.log_every=1", "data.batch_size=4", "data.val_batch_size=4", "data.workers=0"),
    *("data.procedural.samples=8", "data.procedural.val_samples=4"),
]
# a shell's background job starts with it ignored, and would hand that on to the runs that tests interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def depth_shards(tmp_path_factory) -> Path:
    return write_depth_shards(tmp_path_factory.mktemp("depth_shards"))


def write_depth_shards(folder: Path, train: int = 22, val: int = 7, max_count: int = 9) -> Path:
    """train-*.tar and val-*.tar, of so many samples 16 x 16, at most `max_count` of them in one shard."""
    from vstrain.data.writer import ShardWriter

    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        with ShardWriter(folder, split, "depth", max_count=max_count) as writer:
            for n in range(count):
                image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                depth = (1 + image.mean(2) / 64).astype(np.float32)
                writer.write(
                    {
                        "__key__": f"{split}{n:03d}",
                        "png": image,
                        "depth.pco": depth,
                        "json": {"unit": "depth"},
                    }
                )
    return folder


def command(*words: str) -> tuple[list[str], dict[str, str]]:
    """The command line and environment of `vstrain WORDS` with the plug-in system in reach."""
    paths = [str(PLUGIN), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "VSTRAIN_CONF": str(PLUGIN / "conf"),
        "OMP_NUM_THREADS": "1",
    }
    return [sys.executable, "-m", "vstrain.cli", *map(str, words)], env


@pytest.fixture
def vstrain(tmp_path):
    """`vstrain(*words, code=0)` runs the command in a folder of its own and returns the finished process."""

    def run(*words: str, code: int | None = 0, timeout: float = 300, **extra: str) -> subprocess.CompletedProcess:
        line, env = command(*words)
        done = subprocess.run(line, cwd=tmp_path, env=env | extra, capture_output=True, text=True, timeout=timeout)
        if code is not None:
            assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture
def toy_words(depth_shards) -> list[str]:
    """The overrides that train the plug-in system on the tiny data set."""
    return [
        "experiment=toy",
        f"data.train.urls=[{depth_shards}/train-*.tar]",
        f"data.val.urls=[{depth_shards}/val-*.tar]",
    ]


def until(
    condition: Callable[[], object], seconds: float = 60, story: Callable[[], str] = str, every: float = 0.01
) -> None:
    """Wait for it, with a look every so many seconds; fail with the story when it takes longer."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, story() or "waited in vain"
        time.sleep(every)


def metrics(run_dir: Path) -> list[dict]:
    """metrics.jsonl without what the clock decides."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if not name.startswith(("time/", "memory/"))} for line in lines
    ]


def weights(run_dir: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(run_dir / "checkpoints" / "last" / "model.safetensors")
