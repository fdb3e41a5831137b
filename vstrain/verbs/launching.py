"""From a run directory to running processes, by the configuration's launcher."""

from __future__ import annotations

import sys
from pathlib import Path

from launch import freeze, local, slurm
from launch.files import LaunchError
from vstrain.config import rundir
from vstrain.config.problems import InputError
from vstrain.config.schema import TrainConfig


def launch(config: TrainConfig, run_dir: Path, replace: bool, dependency: str | None = None, name: str = "") -> int:
    """Start the run, here or elsewhere; the exit code for the command.

    replace: this process may become the run. dependency, name: of the job, where a scheduler gets it."""
    if config.launcher.name == "slurm":
        return submit(config, run_dir, dependency, name or f"{config.run.experiment}-{run_dir.name}")
    return local.start(run_dir, config.trainer.devices, replace)


def submit(config: TrainConfig, run_dir: Path, dependency: str | None, name: str) -> int:
    """Queue the run. Raises InputError with SLURM's reason when it is refused."""
    launcher = config.launcher
    freeze.freeze(run_dir, config.system.module)
    text = slurm.script(run_dir, launcher, config.trainer.devices, config.trainer.accelerator, name, Path.cwd())
    rundir.set_state(run_dir, "queued")
    try:
        job = slurm.submit(run_dir, text, dependency)
    except LaunchError as error:
        rundir.set_state(run_dir, "failed", error=str(error), code=2)
        raise InputError(str(error)) from error
    print(job)
    print(f"job {job}: vstrain status {run_dir}, vstrain logs -f {run_dir}, vstrain stop {run_dir}", file=sys.stderr)
    if not launcher.wait:
        return 0
    slurm.wait(run_dir, job)
    return rundir.state(run_dir).get("code", 1)
