"""`vstrain logs [-f] RUN_DIR`: what a run says."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from launch import files, slurm
from launch.files import LaunchError
from vstrain.config import rundir
from vstrain.config.problems import InputError

USAGE = """vstrain logs [-f] [rank=N] RUN_DIR

  what the run has said: its job's output, or rank 0's log. -f goes on until the run ends; rank=N: that rank's own log"""

PAUSE = 0.5  # seconds between two looks


def main(argv: list[str]) -> int:
    if not argv or "--help" in argv or "-h" in argv:
        print(USAGE)
        return 0
    folders = [word for word in argv if word != "-f" and not word.startswith("rank=")]
    if len(folders) != 1:
        raise InputError(f"logs takes one run directory, got {' '.join(folders) or 'none'}")
    run_dir = Path(folders[0]).absolute()
    rundir.load(run_dir)
    rank = next((word.partition("=")[2] for word in argv if word.startswith("rank=")), None)
    follow(run_dir, rank) if "-f" in argv else show(run_dir, rank)
    return 0


def file(run_dir: Path, rank: str | None) -> Path:
    """The newest job's output; it repeats what rank 0 logs, with what came before and after."""
    outputs = sorted((run_dir / "logs").glob("slurm-*.out"), key=lambda path: path.stat().st_mtime)
    return outputs[-1] if outputs and rank is None else run_dir / "logs" / f"rank-{rank or 0}.log"


def show(run_dir: Path, rank: str | None) -> None:
    path = file(run_dir, rank)
    if not path.is_file():
        raise InputError(f"{path}: not there; the run is {rundir.state(run_dir)['status']}")
    sys.stdout.write(path.read_text(errors="replace"))


def follow(run_dir: Path, rank: str | None) -> None:
    """Until the run has ended and everything is said."""
    path, position = file(run_dir, rank), 0
    while True:
        over = ended(run_dir)
        path, position = say(file(run_dir, rank), path, position)
        if over:
            return
        time.sleep(PAUSE)


def say(path: Path, before: Path, position: int) -> tuple[Path, int]:
    if path != before:
        position = 0
    if path.is_file():
        with path.open("rb") as opened:
            opened.seek(position)
            sys.stdout.write(opened.read().decode(errors="replace"))
            sys.stdout.flush()
            position = opened.tell()
    return path, position


def ended(run_dir: Path) -> bool:
    """A stopped run of SLURM may still be queued again."""
    status = rundir.state(run_dir)["status"]
    job = files.read(run_dir / "slurm.json").get("job")
    if status == "stopped" and job:
        try:
            found = slurm.queue([job]).get(job)
        except LaunchError:
            return False
        return found is None or found.state in slurm.ENDED
    return status in ("finished", "failed", "stopped")
