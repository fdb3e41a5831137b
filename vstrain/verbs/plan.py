"""`vstrain plan experiment=…`: what a training run would need, from the same words that would start it."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np

from launch import local
from vstrain.config import rundir
from vstrain.config.command import Command
from vstrain.config.problems import ConfigError, Problem
from vstrain.config.schema import PlanConfig
from vstrain.data.index import Index
from vstrain.data.keyed import rng
from vstrain.data.reader import Reader
from vstrain.data.storage import expand
from vstrain.verbs import embedded

USAGE = """vstrain plan experiment=NAME key=value …

  the words of `vstrain train`; prints parameters, FLOPs a sample, and bytes a rank for weights, gradients, optimiser and
  checkpoint, without data and without a GPU. Example: vstrain plan experiment=depth_teacher scale=large trainer.devices=8"""


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv or not argv:
        print(USAGE)
        return 0
    command = Command("train", PlanConfig, ["verb=plan", *argv], embedded.check)
    if command.flags:
        raise ConfigError([Problem(command.flags[0], "no such flag of `vstrain plan`")])
    config = command.config()
    run_dir = rundir.create(
        config, Path(config.run.root) / "plan", Path(config.run.dir) if config.run.dir else None, {}
    )
    rundir.write_atomic(run_dir / "item.json", json.dumps(example(config)))
    print(f"plan {config.run.experiment}, scale {config.run.scale}: {run_dir}", file=sys.stderr)
    return local.start(run_dir, 1, replace=True)


def example(config: PlanConfig) -> dict[str, list]:
    """name -> [shape, dtype] of one training item, from one rendered or stored sample."""
    if config.data.source == "procedural":
        sample = embedded.one_sample(config)
    else:
        index = Index.open(expand(config.data.train.all_sources()[0].urls))
        sample = Reader(index).read(0)
    prepare = importlib.import_module(f"{config.system.module}.prepare").prepare
    item = prepare(sample, config.system, rng(0, "plan"), True)
    return {
        name: [list(np.shape(value)), str(np.asarray(value).dtype)]
        for name, value in item.items()
        if not isinstance(value, str)
    }
