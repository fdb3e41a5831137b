"""This machine: one process for one device, torchrun's agent for more, or for this host's part of a run over several."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


def start(run_dir: Path, devices: int, replace: bool, agent: bool = False) -> int:
    """Run `python -m vstrain.worker RUN_DIR` on `devices` processes and return its exit code.

    replace: with one device, become that process (a single run); a sweep stays and waits.
    agent: even one process goes by torchrun's agent, which finds the other hosts of the run.
    """
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // devices)))}
    if devices == 1 and not agent:
        command = [sys.executable, "-m", "vstrain.worker", str(run_dir)]
        if replace:
            sys.stdout.flush()
            sys.stderr.flush()
            os.execve(command[0], command, environment)
        return wait(command, environment)
    command = [sys.executable, "-m", "vstrain.agent", str(devices), str(run_dir)]
    return wait(command, environment)


def wait(command: list[str], environment: dict[str, str]) -> int:
    """Run a child to its end. Signals that ask for a stop go to the child, which saves; this process waits for it.

    Below submitit (a sweep with hydra/launcher=submitit_slurm), whose warning is USR2: the run saves, then submitit's own
    handler does what it would have done at once, which is to queue the job again."""
    submitit = signal.getsignal(signal.SIGUSR2)
    if callable(
        submitit
    ):  # SLURM sends it to every process of a task: the child, which inherits this, shall not die of it
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    child = subprocess.Popen(command, env=environment, start_new_session=True)
    warned = []

    def forward(number: int, frame) -> None:
        if number == signal.SIGUSR2:
            warned.append(number)
            number = signal.SIGUSR1
        if child.poll() is None:
            child.send_signal(number)

    kept = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    if callable(submitit):
        signal.signal(signal.SIGUSR2, forward)
        kept[signal.SIGUSR2] = submitit
    try:
        code = child.wait()
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    for number in warned[:1]:
        kept[number](number, None)
    return code


def exit_code(run_dir: Path, agent_code: int) -> int:
    """The run's own word, not the agent's: torchrun's agent exits 1 even after a clean stop."""
    try:
        state = json.loads((run_dir / "state.json").read_text())
    except (OSError, ValueError):
        return agent_code or 1
    return (
        state.get("code", agent_code or 1) if state["status"] in ("finished", "stopped", "failed") else agent_code or 1
    )


def cores() -> int:
    return len(os.sched_getaffinity(0))
