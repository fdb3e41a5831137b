"""From a run directory to running processes, by the configuration's launcher."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from launch import files, freeze, local, manifests, rendezvous, requeue, slurm
from launch.files import LaunchError
from vstrain.config import rundir
from vstrain.config.problems import InputError
from vstrain.config.schema import TrainConfig
from vstrain.verbs import plan


def launch(config: TrainConfig, run_dir: Path, replace: bool, dependency: str | None = None, name: str = "") -> int:
    """Start the run, here or elsewhere; the exit code for the command.

    replace: this process may become the run. dependency, name: of the job, where a scheduler gets it."""
    refuse_twice(run_dir)
    (run_dir / requeue.REQUEST).unlink(missing_ok=True)
    match config.launcher.name:
        case "slurm":
            return submit(config, run_dir, dependency, name or f"{config.run.experiment}-{run_dir.name}")
        case "torchrun":
            return first_host(config, run_dir)
        case "kubernetes" | "skypilot":
            return write_manifest(config, run_dir)
    return local.start(run_dir, config.trainer.devices, replace)


def refuse_twice(run_dir: Path) -> None:
    """A run whose job is still in the queue would be trained by two at once."""
    job = files.read(run_dir / "slurm.json").get("job")
    try:
        found = slurm.queue([job] if job else []).get(job)
    except LaunchError:
        return  # no SLURM here
    if found is not None and found.state not in slurm.ENDED:
        raise InputError(f"{run_dir}: its job {job} is {found.state}; first `vstrain stop {run_dir}`")


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


def first_host(config: TrainConfig, run_dir: Path) -> int:
    """This host's part of the run, at whose address the others join."""
    if config.launcher.endpoint is None:
        here = config.launcher.model_copy(update={"endpoint": f"{socket.gethostname()}:{rendezvous.PORT}"})
        config = config.model_copy(update={"launcher": here})
        rundir.write_atomic(run_dir / "resolved.yaml", rundir.dump(config))
    if config.launcher.nodes > 1:
        print(
            f"on every other host, also one that comes later for a lost one:\n  cd {Path.cwd()} && vstrain join {run_dir}",
            file=sys.stderr,
            flush=True,
        )
    rundir.set_state(run_dir, "starting")  # workers that an agent starts again take `failed` for the end
    return local.start(run_dir, config.trainer.devices, replace=False, agent=True)


def write_manifest(config: TrainConfig, run_dir: Path) -> int:
    """The file that the cluster takes, and the command that hands it over."""
    freeze.freeze(run_dir, config.system.module)
    make = manifests.kubernetes if config.launcher.name == "kubernetes" else manifests.skypilot
    try:
        text, file, command = make(
            run_dir, config.launcher, config.trainer.devices, config.trainer.accelerator, Path.cwd()
        )
    except LaunchError as error:
        rundir.set_state(run_dir, "failed", error=str(error), code=2)
        raise InputError(str(error)) from error
    (run_dir / file).write_text(text)
    print(f"start it with:\n  {command}", file=sys.stderr)
    return 0
