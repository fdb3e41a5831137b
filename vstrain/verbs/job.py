"""What predict, eval and export share: find the checkpoint, check the changed system keys, make a run directory, launch."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

from pydantic import ValidationError

from launch import local
from vstrain.config import rundir, validate
from vstrain.config.command import Command
from vstrain.config.problems import ConfigError, InputError, Problem
from vstrain.config.schema import SystemConfig, TrainConfig
from vstrain.config.validate import problem
from vstrain.config.verbs import MODELS, EvalConfig, Job, LabelConfig, PredictConfig


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
    return local.start(run_dir, config.devices if isinstance(config, LabelConfig) else 1, replace=True)


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
        system = trained(config).system
    except ConfigError as error:
        return error.problems
    module, problems = system.module, []
    if config.verb in ("predict", "export", "label") and importlib.util.find_spec(f"{module}.{config.verb}") is None:
        problems.append(Problem("ckpt", f"system {module} has no {config.verb}: there is no {module}.{config.verb}"))
    if isinstance(config, PredictConfig) and not Path(config.input).exists():
        problems.append(
            Problem("input", f"{config.input} does not exist; give a file or a folder of files", origin("input"))
        )
    if isinstance(config, EvalConfig) and config.protocol is not None:
        problems += check_protocol(config.protocol, system, origin)
    return problems


def check_protocol(values: dict, system: SystemConfig, origin) -> list[Problem]:
    """The system has a protocol of that name, its keys are right, and its input is there."""
    if importlib.util.find_spec(f"{system.module}.protocols") is None:
        sentence = f"system {system.module} has no protocols; leave it out to evaluate on validation shards"
        return [Problem("protocol", sentence, origin("protocol"))]
    protocols = importlib.import_module(f"{system.module}.protocols")
    known = f"expected one of {', '.join(sorted(protocols.PROTOCOLS))}"
    if "name" not in values:
        raise ConfigError([Problem("protocol", f"missing; set protocol=… ({known})", origin("protocol"), missing=True)])
    name = values["name"]
    if name not in protocols.PROTOCOLS:
        return [Problem("protocol", f"system {system.module} knows no protocol {name!r}; {known}", origin("protocol"))]
    try:
        options = protocols.PROTOCOLS[name].model_validate(values)
    except ValidationError as error:
        return [problem(detail, protocols.PROTOCOLS[name], origin, "protocol.") for detail in error.errors()]
    try:
        protocols.check(options, system)
    except InputError as error:
        return [Problem("protocol", str(error))]
    return []


def trained(config: Job) -> TrainConfig:
    """The configuration of the run that made the checkpoint, with the job's `system.*` changes."""
    return validate.trained(run_of(Path(config.ckpt)), config.system)


def run_of(ckpt: Path) -> Path:
    """The run directory of a path that a user gave: itself, or the one above a checkpoint."""
    ckpt = ckpt.absolute()
    candidates = [ckpt, *ckpt.parents[:2], *ckpt.resolve().parents[:2]]
    return next((path for path in candidates if (path / "resolved.yaml").is_file()), ckpt)
