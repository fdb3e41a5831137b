"""`vstrain stop RUN_DIR …`: a run saves and ends, wherever it is."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

from launch import files, requeue, slurm
from launch.files import LaunchError
from vstrain.config import rundir
from vstrain.config.problems import InputError

USAGE = """vstrain stop RUN_DIR …

  a running one saves at its next step and ends, a queued one leaves the queue; go on with vstrain train resume=RUN_DIR"""


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("--help", "-h"):
        print(USAGE)
        return 0
    for word in argv:
        run_dir = Path(word).absolute()
        rundir.load(run_dir)  # says so when it is no run
        job = files.read(run_dir / "slurm.json").get("job")
        print(f"{run_dir}: {stop_job(run_dir, job) if job else stop_here(run_dir)}")
    return 0


def stop_job(run_dir: Path, job: str) -> str:
    """Asks the ranks by the signal that means the user; the note keeps the batch script from starting them again."""
    try:
        found = slurm.queue([job]).get(job)
        if found is None or found.state in slurm.ENDED:
            raise InputError(f"{run_dir}: job {job} is not in the queue")
        rundir.write_atomic(run_dir / requeue.REQUEST, json.dumps({"time": time.time()}))
        running = found.state == "RUNNING"
        slurm.signal(job, "INT" if running else None)
    except LaunchError as error:
        raise InputError(f"{run_dir}: {error}") from error
    if running:
        return f"job {job} saves and ends"
    rundir.set_state(run_dir, "stopped", code=75)
    return f"job {job} has left the queue"


def stop_here(run_dir: Path) -> str:
    """Signals rank 0; all ranks agree on the stop."""
    state = rundir.state(run_dir)
    if state["status"] != "running":
        raise InputError(f"{run_dir}: is {state['status']}, not running")
    if state["host"] != socket.gethostname():
        raise InputError(f"{run_dir}: runs on {state['host']}; type this command there")
    if not is_worker(state["pid"]):
        raise InputError(f"{run_dir}: its process {state['pid']} is gone; go on with vstrain train resume={run_dir}")
    os.kill(state["pid"], signal.SIGINT)
    return "saves and ends"


def is_worker(pid: int) -> bool:
    try:
        return b"vstrain.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
