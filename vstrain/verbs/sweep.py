"""One run of a sweep, and the table of all of them: `vstrain -m …`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from launch import files
from vstrain.config import rundir
from vstrain.config.problems import InputError
from vstrain.config.schema import TrainConfig
from vstrain.verbs import launching

TABLE = "sweep.json"


class TrialFailed(RuntimeError):
    """A run that a sampler waits for has no result: it counts as a failed trial."""


def folder(root: Path) -> Path:
    """A new folder for a sweep; the runs themselves stand where all runs do."""
    return root.absolute() / "sweeps" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


def run_member(
    config: TrainConfig, place: Path, number: int, overrides: list[str], start, sampled: bool
) -> float | None:
    """Run number `number` of the sweep in folder `place`; started anew it goes on where it was. `start(config, …)` makes a new
    run. With a sampler (`sampled`), its objective; raises TrialFailed when it has none."""
    if int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SUBMITIT_EXECUTOR" in os.environ:
        raise InputError(
            "hydra/launcher=submitit_slurm starts a run in one task: set hydra.launcher.nodes=1 and "
            "hydra.launcher.tasks_per_node=1, with trainer.devices=… in it; for several nodes use launcher=slurm"
        )
    if sampled and config.launcher.name == "slurm" and not config.launcher.wait:
        raise InputError("a sampler needs the results of the runs; set launcher.wait=true")
    record = place / f"{number}.json"

    def made(run_dir: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        files.write(record, {"number": number, "overrides": overrides, "run": str(run_dir)})

    if known := files.read(record):  # a scheduler has started this one again
        launching.launch(config, Path(known["run"]), replace=False)
    else:
        slots = config.launcher.concurrent if config.launcher.name == "slurm" else None
        # jobs of one name wait for each other: as many names as may run at the same time
        queueing = {"dependency": "singleton", "name": f"{place.name}.{number % slots}"} if slots else {}
        start(config, replace=False, made=made, **queueing)
    return objective(Path(files.read(record)["run"]), config.objective) if sampled else None


def objective(run_dir: Path, name: str) -> float:
    """The newest value of a metric of a finished run."""
    state = rundir.state(run_dir)
    values = [line[name] for line in files.read_lines(run_dir / "metrics.jsonl") if name in line]
    if state["status"] != "finished" or not values:
        reason = state.get("error", f"no value of {name} in metrics.jsonl")
        raise TrialFailed(f"{run_dir}: {state['status']}: {reason}")
    return values[-1]


def members(place: Path) -> list[dict]:
    """number, overrides and run directory of every run of a sweep that has begun."""
    found = [files.read(path) for path in place.glob("[0-9]*.json")]
    return sorted((one for one in found if one), key=lambda one: one["number"])


def close(place: Path) -> tuple[str, int]:
    """Writes sweep.json; returns the table as text and the exit code: the worst of runs that have ended."""
    rows = []
    for one in members(place):
        run_dir = Path(one["run"])
        state, job = rundir.state(run_dir), files.read(run_dir / "slurm.json").get("job")
        rows.append(one | {"job": job, "status": state["status"], "code": state.get("code", 0)})
    place.mkdir(parents=True, exist_ok=True)
    rundir.write_atomic(place / TABLE, json.dumps(rows, indent=2))
    lines = [
        f"  {row['number']:>3}  {'job ' + row['job'] if row['job'] else '':<12}{row['status']:<10}{row['run']}  "
        f"{' '.join(row['overrides'])}"
        for row in rows
    ]
    return "\n".join([f"sweep of {len(rows)} runs: vstrain status {place}", *lines]), max(
        (row["code"] for row in rows), default=0
    )
