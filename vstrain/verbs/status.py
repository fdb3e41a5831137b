"""`vstrain status [RUN_DIR …]`: how runs stand, from their own files."""

from __future__ import annotations

import json
import time
from pathlib import Path

from vstrain.config import rundir
from vstrain.config.problems import InputError

USAGE = """vstrain status [RUN_DIR or FOLDER …]

  the runs below each folder (default: runs/), newest last: status, step, losses, samples/s, last error"""


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv:
        print(USAGE)
        return 0
    folders = [Path(word) for word in argv] or [Path("runs")]
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; give a run directory or a folder of runs")
        found += [path.parent for path in folder.rglob("state.json")]
    if not found:
        raise InputError(f"{folders[0]}: no run below it (looked for state.json)")
    for run in sorted(found, key=lambda path: rundir.state(path).get("time", 0)):
        print(describe(run))
    return 0


def describe(run: Path) -> str:
    """One line, and the error of a failed run on a second."""
    state, metrics = rundir.state(run), last_metrics(run)
    parts = [f"{run}  {state['status']}"]
    if "step" in metrics:
        parts.append(f"step {metrics['step']}/{rundir.load(run)['trainer']['max_steps']}")
    parts += [f"{name} {metrics[name]:.4g}" for name in ("train/loss", "val/loss") if name in metrics]
    if "time/samples_per_second" in metrics:
        parts.append(f"{metrics['time/samples_per_second']:.4g} samples/s")
    parts.append(time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state.get("time", 0))))
    return "  ".join(parts) + (f"\n    {state['error']}" if "error" in state else "")


def last_metrics(run: Path) -> dict:
    """The newest value of every metric."""
    newest: dict = {}
    file = run / "metrics.jsonl"
    for line in file.read_text().splitlines() if file.is_file() else []:
        try:
            newest |= json.loads(line)
        except ValueError:
            continue  # the line that is being written
    return newest
