"""`vstrain status [RUN_DIR …]`: how runs stand, from their own files and, where they are queued, from SLURM."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from launch import files, slurm, starts
from launch.files import LaunchError
from vstrain.config import rundir
from vstrain.config.problems import InputError
from vstrain.verbs import sweep

USAGE = """vstrain status [RUN_DIR or FOLDER or SWEEP …]

  the runs below each folder (default: runs/), newest last: status, place in the queue, step, losses, samples/s, goodput
  (share of the time since its first start that went into steps that it has kept), restarts, last error"""


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv:
        print(USAGE)
        return 0
    folders = [Path(word) for word in argv] or [Path("runs")]
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; give a run directory or a folder of runs")
        members = [Path(one["run"]) for one in sweep.members(folder)]
        found += members or runs_below(folder)
    if not found:
        raise InputError(f"{folders[0]}: no run below it (looked for state.json)")
    queue = queued(found)
    for run in sorted(found, key=lambda path: rundir.state(path).get("time", 0)):
        print(describe(run, queue))
    return 0


def runs_below(folder: Path) -> Iterator[Path]:
    """Run directories, without looking inside them."""
    for place, folders, names in os.walk(folder):
        if "state.json" in names:
            folders.clear()
            yield Path(place)


def queued(runs: list[Path]) -> dict[str, str]:
    """job id -> what SLURM says of it, in one question for all runs."""
    jobs = [job for run in runs if (job := files.read(run / "slurm.json").get("job"))]
    try:
        found = slurm.queue(jobs)
    except LaunchError:
        return dict.fromkeys(jobs, "SLURM does not answer here")
    return {job: f"{one.state}{f' ({one.reason})' if one.reason else ''}" for job, one in found.items()}


def describe(run: Path, queue: dict[str, str]) -> str:
    """One line, and the error of a failed run on a second."""
    state, metrics, begun = rundir.state(run), files.read_lines(run / "metrics.jsonl"), starts.read(run)
    newest = {name: value for line in metrics for name, value in line.items()}
    parts = [f"{run}  {state['status']}"]
    if job := files.read(run / "slurm.json").get("job"):
        parts.append(f"job {job} {queue.get(job, 'has left the queue')}")
    if "step" in newest:
        parts.append(f"step {newest['step']}/{rundir.load(run)['trainer']['max_steps']}")
    parts += [f"{name} {newest[name]:.4g}" for name in ("train/loss", "val/loss") if name in newest]
    if "time/samples_per_second" in newest:
        parts.append(f"{newest['time/samples_per_second']:.4g} samples/s")
    if "time/goodput" in newest:
        parts.append(f"goodput {100 * newest['time/goodput']:.0f} %")
    if len(begun) > 1:
        parts.append(f"{len(begun) - 1} restart{'s' * (len(begun) > 2)}")
    parts.append(time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state.get("time", 0))))
    return "  ".join(parts) + (f"\n    {state['error']}" if "error" in state else "")
