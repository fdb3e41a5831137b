"""This machine: one process for one device, torchrun's agent for more. Standard library only.

More nodes will take the same path: the same worker command, started by torchrun or by SLURM's srun on each node.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


def start(run_dir: Path, devices: int, replace: bool) -> int:
    """Run `python -m vstrain.worker RUN_DIR` on `devices` processes and return its exit code.

    replace: with one device, become that process (a single run); a sweep stays and waits.
    """
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // devices)))}
    if devices == 1:
        command = [sys.executable, "-m", "vstrain.worker", str(run_dir)]
        if replace:
            sys.stdout.flush()
            sys.stderr.flush()
            os.execve(command[0], command, environment)
        return wait(command, environment)
    agent = [sys.executable, "-m", "vstrain.agent", str(devices), str(run_dir)]
    return exit_code(run_dir, wait(agent, environment))


def wait(command: list[str], environment: dict[str, str]) -> int:
    """Run a child to its end. Signals that ask for a stop go to the child, which saves; this process waits for it."""
    child = subprocess.Popen(command, env=environment, start_new_session=True)

    def forward(number: int, frame) -> None:
        if child.poll() is None:
            child.send_signal(number)

    kept = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        return child.wait()
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


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
