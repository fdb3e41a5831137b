"""Every strategy trains the same model, and goes on from what any other has saved on any number of ranks.

Runs share their processes: one launch for each number of ranks. Compared with one process that knows no strategy at all.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.conftest import PLUGIN, metrics
from vstrain.config import checkpoints, rundir
from vstrain.config.command import Command
from vstrain.config.schema import TrainConfig

ZERO = ("zero1", "zero2", "zero3") if find_spec("deepspeed") else ()
TWO = ("ddp", "fsdp2", *ZERO)
HALF, WHOLE = {"trainer.max_steps": 4}, {"trainer.max_steps": 6}
WORDS = ["data.batch_size=8", "schedule=constant", "optim.clip=0.1", "optim.lr=0.01", "callbacks.checkpoint.every=2",
         "callbacks.checkpoint.keep=3", "callbacks.validation.every=2", "trainer.accelerator=cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory, depth_shards):
    """Run directories by name. `2-fsdp2`: 6 steps on two ranks; `2-fsdp2-again`: 4 steps, then 2 more; `4-zero3-to-zero2`: what
    zero3 had saved at step 4 on two ranks, finished by zero2 on four."""
    folder = tmp_path_factory.mktemp("strategies")
    sys.path.append(str(PLUGIN))

    def make(name: str, strategy: str, ranks: int, *words: str) -> Path:
        urls = [f"data.{split}.urls=[{depth_shards}/{split}-*.tar]" for split in ("train", "val")]
        parts = {1: 4, 2: 2, 4: 1}[ranks]
        words = [
            *WORDS,
            *urls,
            f"strategy={strategy}",
            f"trainer.devices={ranks}",
            f"trainer.accumulate={parts}",
            *words,
        ]
        config = Command("train", TrainConfig, ["experiment=toy", *words, f"--config-dir={PLUGIN / 'conf'}"]).config()
        return rundir.create(config, folder, folder / name, {})

    def continued(source: str, strategy: str, ranks: int, *words: str) -> str:
        """A run with the checkpoint that `source` has of step 4."""
        name = f"{ranks}-{source.partition('-')[2]}-to-{strategy}"
        make(name, strategy, ranks, *words)
        step = checkpoints.name(4)
        shutil.copytree(folder / source / "checkpoints" / step, folder / name / "checkpoints" / step)
        return name

    make("1-single", "single", 1, "trainer.max_steps=6")
    launch(1, [(folder / "1-single", {})])
    plan = []
    for strategy in TWO:
        plan += [(make(f"2-{strategy}", strategy, 2), WHOLE)]
        again = make(f"2-{strategy}-again", strategy, 2)
        plan += [(again, HALF), (again, WHOLE)]
    launch(2, plan)
    plan = [(make("4-hsdp", "hsdp", 4, "strategy.shard=2"), WHOLE)]
    plan += [(folder / continued("1-single", "fsdp2", 4), WHOLE), (folder / continued("2-fsdp2", "ddp", 4), WHOLE)]
    if ZERO:
        plan += [(folder / continued("2-zero3", "zero2", 4), WHOLE), (folder / continued("2-zero1", "zero3", 4), WHOLE)]
    launch(4, plan)
    back = ["2-fsdp2", "4-hsdp", *(f"2-{zero}" for zero in ZERO)]
    launch(1, [(folder / continued(source, "single", 1), WHOLE) for source in back])
    return folder


def launch(ranks: int, plan: list[tuple[Path, dict]]) -> None:
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    line += [str(Path(__file__).with_name("ranks.py")), json.dumps([(str(run), changes) for run, changes in plan])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(PLUGIN), os.environ.get("PYTHONPATH", str(Path.cwd()))])}
    done = subprocess.run(line, env=env | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-6000:]


def weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(checkpoints.weights(checkpoints.latest(run)[0]))


def test_all_strategies_train_the_same_model(runs):
    """With accumulation, and with gradients whose norm is clipped: the norm must be that of the whole gradient."""
    expected, curve = weights(runs / "1-single"), metrics(runs / "1-single")
    assert [line["step"] for line in curve if "train/loss" in line] == [1, 2, 3, 4, 5, 6]
    for name in (*(f"2-{strategy}" for strategy in TWO), "4-hsdp"):
        found = weights(runs / name)
        assert found.keys() == expected.keys(), name
        for key, value in expected.items():
            assert found[key].dtype == value.dtype and np.allclose(found[key], value, rtol=1e-4, atol=1e-6), (name, key)
        for line, other in zip(curve, metrics(runs / name), strict=True):
            assert line.keys() == other.keys() and all(other[k] == pytest.approx(line[k], rel=1e-4) for k in line), name


def test_a_resume_on_the_same_ranks_is_exact_to_the_bit(runs):
    for strategy in TWO:
        whole, again = runs / f"2-{strategy}", runs / f"2-{strategy}-again"
        expected, found = weights(whole), weights(again)
        assert all(expected[name].tobytes() == found[name].tobytes() for name in expected), strategy
        assert metrics(whole) == metrics(again), strategy


def test_a_run_goes_on_under_other_strategies_and_ranks(runs):
    expected = weights(runs / "1-single")
    at_four = load_file(runs / "1-single" / "checkpoints" / checkpoints.name(4) / "model.safetensors")
    assert (
        max(np.abs(expected[name] - at_four[name]).max() for name in expected) > 1e-3
    )  # steps 5 and 6 move the weights
    continued = [path for path in runs.iterdir() if "-to-" in path.name]
    assert len(continued) == 4 + 5 * bool(ZERO)
    for run in continued:
        found = weights(run)
        assert checkpoints.latest(run)[1]["step"] == 6 and found.keys() == expected.keys(), run.name
        assert all(np.allclose(found[name], expected[name], rtol=1e-4, atol=1e-6) for name in expected), run.name


def test_moments_and_step_count_are_the_same_under_every_strategy(runs):
    """Not only weights: what Adam remembers, by the name of its parameter."""
    import torch

    from vstrain.engine.checkpoint.pieces import Piece, Reader

    def moments(run: Path) -> dict[str, torch.Tensor]:
        reader, found = Reader(checkpoints.files(run / "checkpoints" / checkpoints.name(6), "optimizer")), {}
        for name, entries in reader.entries.items():
            found[name] = torch.empty(entries[0].shape)
            reader.fill(name, Piece(found[name], entries[0].shape, 0, True))
        return found

    expected = moments(runs / "1-single")
    assert {name.rpartition("/")[2] for name in expected} == {"exp_avg", "exp_avg_sq", "step"}
    assert all(value == 6 for name, value in expected.items() if name.endswith("/step"))
    for name in (*(f"2-{strategy}" for strategy in TWO), "4-hsdp"):
        found = moments(runs / name)
        assert found.keys() == expected.keys(), name
        assert all(torch.allclose(found[key], value, rtol=1e-3, atol=1e-8) for key, value in expected.items()), name


@pytest.mark.skipif(not ZERO, reason="DeepSpeed is not installed: ZeRO is NOT tested")
def test_deepspeed_is_there():
    assert ZERO
