"""`vstrain plan experiment=…`: what a training run would need, from the same words that would start it."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

from launch import local
from vstrain.config import rundir
from vstrain.config.command import Command
from vstrain.config.problems import ConfigError, Problem, nearest
from vstrain.config.rundir import CONF
from vstrain.config.schema import TrainConfig
from vstrain.config.validate import validate
from vstrain.config.verbs import PlanConfig
from vstrain.data.index import Index
from vstrain.data.keyed import rng
from vstrain.data.reader import Reader
from vstrain.data.storage import expand
from vstrain.verbs import embedded

USAGE = """vstrain plan experiment=NAME key=value … [hardware=NAME]

  the words of `vstrain train`; prints the memory of a rank by category, FLOPs, messages and time of a step, length of the run,
  checkpoint, and the cheapest strategy that fits the hardware, without data and without a GPU.
  hardware=h100 | h200 | a100_80 | a100_40 | rtx4090 | cpu …    the device (conf/hardware), h100 unless you say
  Example: vstrain plan experiment=depth_teacher scale=large trainer.devices=8 hardware=a100_40"""

HARDWARE = "h100"


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv or not argv:
        print(USAGE)
        return 0
    command = Command("train", PlanConfig, ["verb=plan", *with_hardware(argv)], embedded.check)
    if command.flags:
        raise ConfigError([Problem(command.flags[0], "no such flag of `vstrain plan`")])
    config = command.config()
    run_dir = rundir.create(
        config, Path(config.run.root) / "plan", Path(config.run.dir) if config.run.dir else None, {}
    )
    rundir.write_atomic(run_dir / "data.json", json.dumps(data_facts(config)))
    print(f"plan {config.run.experiment}, scale {config.run.scale}: {run_dir}", file=sys.stderr)
    return local.start(run_dir, 1, replace=True)


def with_hardware(argv: list[str]) -> list[str]:
    """`hardware=NAME` adds that choice of conf/hardware, which no other verb has."""
    chosen = [word for word in argv if word.startswith("hardware=")] or [f"hardware={HARDWARE}"]
    return [f"+{chosen[-1]}", *(word for word in argv if word not in chosen)]


def verdict(config: TrainConfig, folder: Path, hardware: str) -> tuple[bool, str]:
    """(whether a run of this configuration fits `hardware`, one sentence that says it). hardware: one of conf/hardware, or a
    file such as those. The plan is left in `folder`; the counting is done by a process of its own."""
    known = {path.stem: path for path in (CONF / "hardware").glob("*.yaml")}
    file = known.get(hardware, Path(hardware).expanduser())
    if not file.is_file():
        sentence = f"no choice {hardware!r}, nor a file; {nearest(hardware, known)}"
        raise ConfigError([Problem("launcher.hardware", sentence)])
    values = config.model_dump(mode="json") | {"verb": "plan", "hardware": yaml.safe_load(file.read_text())}
    planned = rundir.create(validate(values, PlanConfig), folder, folder, {})
    rundir.write_atomic(planned / "data.json", json.dumps(data_facts(config)))
    done = subprocess.run([sys.executable, "-m", "vstrain.worker", str(planned)], capture_output=True, text=True)
    if done.returncode:
        return True, f"could not be made ({rundir.state(planned).get('error', done.stderr[-300:])})"
    facts = json.loads((planned / "plan.json").read_text())
    return facts["fits"], facts["verdict"]


def data_facts(config: TrainConfig) -> dict:
    """item: name -> [shape, dtype] of one training item, from one rendered or stored sample; samples and shards of the
    training data (None: of shards that are not made yet)."""
    if config.data.source == "procedural":
        sample, (samples, shards) = embedded.one_sample(config), embedded.sizes(config)
    else:
        indices = [Index.open(expand(source.urls)) for source in config.data.train.all_sources()]
        sample = Reader(indices[0]).read(0)
        samples, shards = sum(map(len, indices)), sum(len(index.shards) for index in indices)
    prepare = importlib.import_module(f"{config.system.module}.prepare").prepare
    item = prepare(sample, config.system, rng(0, "plan"), True)
    shapes = {
        name: [list(np.shape(value)), str(np.asarray(value).dtype)]
        for name, value in item.items()
        if not isinstance(value, str)
    }
    return {"item": shapes, "samples": samples, "shards": shards}
