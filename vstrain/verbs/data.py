"""`vstrain data PIPELINE key=value …`: a pipeline is a package of data_pipelines with config.py (Config) and run.py (run)."""

from __future__ import annotations

import importlib
import sys

from vstrain.config.command import Command
from vstrain.config.compose import CONF
from vstrain.config.problems import ConfigError, InputError, Problem, nearest
from vstrain.verbs.embedded import progress_bar


def pipelines() -> list[str]:
    return sorted(path.stem for path in (CONF / "pipeline").glob("*.yaml"))


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("--help", "-h"):
        print("vstrain data PIPELINE key=value …\n")
        for name in pipelines():
            print(f"  {name:<16}{header(name)}")
        return 0
    name, words = argv[0], argv[1:]
    if name not in pipelines():
        raise InputError(f"no pipeline {name!r}; {nearest(name, pipelines())}")
    if "--help" in words or "-h" in words:
        print((CONF / "pipeline" / f"{name}.yaml").read_text())
        return 0
    model = importlib.import_module(f"data_pipelines.{name}.config").Config
    command = Command(f"pipeline/{name}", model, words)
    if command.flags:
        raise ConfigError([Problem(command.flags[0], f"no such flag; see `vstrain data {name} --help`")])
    config = command.config()
    with progress_bar("vstrain data") as advance:
        result = importlib.import_module(f"data_pipelines.{name}.run").run(config, advance)
    print(result.text, file=sys.stderr)
    return 0


def header(name: str) -> str:
    lines = (CONF / "pipeline" / f"{name}.yaml").read_text().splitlines()
    return next((line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line), "")
