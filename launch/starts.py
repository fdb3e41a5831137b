"""starts.jsonl: one line for every time that a run began anew, and what can be read from it."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

from launch import files

FILE = "starts.jsonl"


def add(run_dir: Path, job: str | None = None) -> dict:
    """Note a start: when, where, at which step, in which job of a scheduler."""
    start = {"time": time.time(), "job": job, "step": newest_step(run_dir), "host": socket.gethostname()}
    with (run_dir / FILE).open("a") as file:
        file.write(json.dumps(start) + "\n")
    return start


def read(run_dir: Path) -> list[dict]:
    return files.read_lines(run_dir / FILE)


def fruitless(starts: list[dict], job: str) -> int:
    """How many starts in a row of this job, the last one among them, followed one that had made no new checkpoint."""
    steps = [start["step"] for start in starts if start["job"] == job]
    count = 0
    while count + 1 < len(steps) and steps[-count - 2] == steps[-1]:
        count += 1
    return count


def newest_step(run_dir: Path) -> int:
    steps = [path.name.removeprefix("step-") for path in (run_dir / "checkpoints").glob("step-*")]
    return max((int(step) for step in steps if step.isdigit()), default=0)
