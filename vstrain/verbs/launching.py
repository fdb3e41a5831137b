"""From a run directory to running processes, by the configuration's launcher."""

from __future__ import annotations

import sys
from pathlib import Path

from launch import freeze, local, slurm
from launch.files import LaunchError
from vstrain.config import rundir
from vstrain.config.problems import InputError
from vstrain.config.schema import TrainConfig
from vstrain.verbs import plan


def launch(config: TrainConfig, run_dir: Path, replace: bool, dependency: str | None = None, name: str = "") -> int:
    """Start the run, here or elsewhere; the exit code for the command.

    replace: this process may become the run. dependency, name: of the job, where a scheduler gets it."""
    if config.launcher.name == "slurm":
        return submit(config, run_dir, dependency, name or f"{config.run.experiment}-{run_dir.name}")
    return local.start(run_dir, config.trainer.devices, replace)


def submit(config: TrainConfig, run_dir: Path, dependency: str | None, name: str) -> int:
    """Queue the run. Raises InputError with SLURM's reason when it is refused."""
    launcher = config.launcher
    if launcher.hardware:
        check_fit(config, run_dir)
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


def check_fit(config: TrainConfig, run_dir: Path) -> None:
    """Say, or refuse with, what `vstrain plan` finds wrong with the run on launcher.hardware."""
    fits, sentence = plan.verdict(config, run_dir / "plan", config.launcher.hardware)
    if not fits and config.launcher.unfit == "refuse":
        sentence = f"on {config.launcher.hardware}, strategy={config.strategy.name} {sentence}; see {run_dir / 'plan'}"
        rundir.set_state(run_dir, "failed", error=sentence, code=2)
        raise InputError(f"{sentence} (launcher.unfit=warn queues it all the same)")
    print(f"plan for {config.launcher.hardware}: {sentence}", file=sys.stderr)
