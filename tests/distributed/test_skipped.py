"""A step that all ranks leave out, under the strategies that keep gradients where the optimiser alone finds them. One launch."""

from __future__ import annotations

import json
import sys

from safetensors.numpy import load_file

from tests.conftest import PLUGIN
from tests.distributed.test_strategies import ZERO, launch
from vstrain.config import checkpoints, rundir
from vstrain.config.command import Command
from vstrain.config.schema import TrainConfig


def test_sharded_weights_and_optimiser_state_stay_as_they_were(depth_shards, tmp_path, monkeypatch):
    sys.path.append(str(PLUGIN))
    monkeypatch.setenv("TOY_TROUBLE", "3:1:nan")
    words = [f"data.{split}.urls=[{depth_shards}/{split}-*.tar]" for split in ("train", "val")]
    words += [
        "trainer.devices=2",
        "trainer.accumulate=2",
        "trainer.max_steps=4",
        "trainer.accelerator=cpu",
        "optim.clip=0.1",
    ]
    words += ["callbacks.checkpoint.every=1", "callbacks.checkpoint.keep=9", "guards.non_finite=skip"]
    words += [f"--config-dir={PLUGIN / 'conf'}"]
    runs = []
    for name in ("fsdp2", *ZERO):
        config = Command("train", TrainConfig, ["experiment=toy", f"strategy={name}", *words]).config()
        runs.append(rundir.create(config, tmp_path, tmp_path / name, {}))
    launch(2, [(run, {}) for run in runs])
    for run in runs:
        states = [state(run, step) for step in (1, 2, 3, 4)]
        assert states[2] == states[1] and states[1] != states[0] and states[3] != states[2], run.name
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [line["guard/skipped"] for line in lines if "lr" in line] == [0, 0, 1, 1], run.name


def state(run, step: int) -> dict[str, bytes]:
    """All that the checkpoint holds, as bytes."""
    files = sorted((run / "checkpoints" / checkpoints.name(step)).glob("*.safetensors"))
    return {f"{file.name} {name}": value.tobytes() for file in files for name, value in load_file(file).items()}
