"""`vstrain join RUN_DIR`: this host's part of a run of several hosts (launcher=torchrun), at its start or for a lost host."""

from __future__ import annotations

from pathlib import Path

from launch import local
from vstrain.config import rundir
from vstrain.config.problems import InputError

USAGE = """vstrain join RUN_DIR

  on every host but the first of a run with launcher=torchrun; RUN_DIR is on a file system that all hosts share.
  A host that was lost, or another one in its place, comes back by the same command."""


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("--help", "-h"):
        print(USAGE)
        return 0
    if len(argv) > 1:
        raise InputError(f"join takes one run directory, got {' '.join(argv)}")
    run_dir = Path(argv[0]).absolute()
    values = rundir.load(run_dir)
    launcher = values.get("launcher", {})
    if launcher.get("name") != "torchrun":
        raise InputError(
            f"{run_dir}: has launcher={launcher.get('name')}; only a run with launcher=torchrun can be joined"
        )
    if launcher["endpoint"] is None:
        raise InputError(f"{run_dir}: was never started; start it on the first host, which sets launcher.endpoint")
    return local.start(run_dir, values["trainer"]["devices"], replace=False, agent=True)
