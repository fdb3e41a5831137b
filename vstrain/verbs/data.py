"""`vstrain data PIPELINE key=value …` and `vstrain data index|verify|repair|inspect|stats URLS…`.

A pipeline is a package of data_pipelines with config.py (Config) and run.py (run)."""

from __future__ import annotations

import importlib
import sys

from vstrain.config.command import Command
from vstrain.config.compose import CONF
from vstrain.config.problems import ConfigError, InputError, Problem, nearest
from vstrain.verbs import shards
from vstrain.verbs.embedded import progress_bar


def pipelines() -> list[str]:
    return sorted(path.stem for path in (CONF / "pipeline").glob("*.yaml"))


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("--help", "-h"):
        print(usage())
        return 0
    name, words = argv[0], argv[1:]
    if name in shards.TOOLS:
        return shards.main(name, words)
    if name not in pipelines():
        raise InputError(f"no pipeline or tool {name!r}; {nearest(name, [*pipelines(), *shards.TOOLS])}")
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


def usage() -> str:
    lines = ["vstrain data PIPELINE key=value …     make shards", ""]
    lines += [f"  {name:<16}{header(name)}" for name in pipelines()]
    lines += ["", "vstrain data TOOL URLS… key=value …   look at shards", ""]
    return "\n".join(lines + [f"  {name:<16}{tool.text}" for name, tool in shards.TOOLS.items()])


def header(name: str) -> str:
    lines = (CONF / "pipeline" / f"{name}.yaml").read_text().splitlines()
    return next((line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line), "")
