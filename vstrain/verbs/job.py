"""What predict, eval and export share: find the checkpoint, check the changed system keys, make a run directory, launch."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from launch import local
from vstrain.config import rundir
from vstrain.config.command import Command
from vstrain.config.problems import ConfigError, Problem
from vstrain.config.schema import MODELS, Job, PredictConfig, TrainConfig
from vstrain.config.validate import validate


def main(verb: str, argv: list[str], usage: str) -> int:
    if "--help" in argv or "-h" in argv or not argv:
        print(usage)
        return 0
    command = Command(verb, MODELS[verb], argv, check)
    if command.flags:
        raise ConfigError([Problem(command.flags[0], f"no such flag of `vstrain {verb}`; see `vstrain {verb} --help`")])
    config = command.config()
    run_dir = rundir.create(config, Path(config.run.root) / verb, Path(config.run.dir) if config.run.dir else None, {})
    print(f"{verb} {config.ckpt}: {run_dir}", file=sys.stderr)
    return local.start(run_dir, 1, replace=True)


def check(config: Job, origin) -> list[Problem]:
    """The checkpoint has a configuration, `system.*` fits it, the system can do what is asked, the input exists."""
    path = Path(config.ckpt)
    if not path.exists():
        return [
            Problem(
                "ckpt",
                f"{path} does not exist; give a run directory or one of its checkpoints",
                origin("ckpt"),
            )
        ]
    try:
        module = trained(config).system.module
    except ConfigError as error:
        return error.problems
    problems = []
    if config.verb in ("predict", "export") and importlib.util.find_spec(f"{module}.{config.verb}") is None:
        problems.append(Problem("ckpt", f"system {module} has no {config.verb}: there is no {module}.{config.verb}"))
    if isinstance(config, PredictConfig) and not Path(config.input).exists():
        problems.append(
            Problem("input", f"{config.input} does not exist; give a file or a folder of files", origin("input"))
        )
    return problems


def trained(config: Job) -> TrainConfig:
    """The configuration of the run that made the checkpoint, with the job's `system.*` changes."""
    values = rundir.load(run_of(Path(config.ckpt)))
    values["system"] = values["system"] | config.system
    return validate(values, TrainConfig)


def run_of(ckpt: Path) -> Path:
    """The run directory of a path that a user gave: itself, or the one above a checkpoint."""
    ckpt = ckpt.absolute()
    candidates = [ckpt, *ckpt.parents[:2], *ckpt.resolve().parents[:2]]
    return next((path for path in candidates if (path / "resolved.yaml").is_file()), ckpt)
