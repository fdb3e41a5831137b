"""A run of four ranks on a SLURM of two pretend nodes, under one fault after the other: did it end with the weights and the
losses of an undisturbed run?

    python benchmarks/reliability/slurm.py [NAME …]      as root, with `make slurm` and VSTRAIN_TESTBED set

Prints one row a fault; takes about a minute each. The plug-in system of the tests is trained, with dropout.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))


import yaml  # noqa: E402

from tests.conftest import command, metrics, until, weights, write_depth_shards  # noqa: E402
from tests.slurm.conftest import RANKS, Cluster, missing, step, testbed  # noqa: E402

SLOW = {"TOY_PAUSE": "0.3"}


def requeue(cluster: Cluster, job: str, run: Path) -> None:
    cluster.slurm("scontrol", "requeue", job)


def preempted(cluster: Cluster, job: str, run: Path) -> None:
    """An urgent job takes all nodes for a moment."""
    cluster.slurm("sbatch", "--exclusive", "-p", "urgent", "-N2", "-o", "/dev/null", "--wrap", "sleep 5")


def warned(cluster: Cluster, job: str, run: Path) -> None:
    """The signal that SLURM sends before a time limit."""
    cluster.slurm("scancel", "--signal=USR1", job)


def crash(cluster: Cluster, job: str, run: Path) -> None:
    cluster.testbed("crash", "n2", "--now")
    cluster.testbed("restore", "n2")


def crash_unnoticed(cluster: Cluster, job: str, run: Path) -> None:
    """The controller finds out by itself, half a minute later."""
    subprocess.run([testbed(), "crash", "n2"], capture_output=True, timeout=60)  # its exit code is 1 without --now
    time.sleep(35)
    cluster.testbed("restore", "n2")


def crash_of_the_first(cluster: Cluster, job: str, run: Path) -> None:
    """The node of rank 0 and of the batch script."""
    cluster.testbed("crash", "n1", "--now")
    cluster.testbed("restore", "n1")


def link_cut(cluster: Cluster, job: str, run: Path) -> None:
    cluster.testbed("partition", "n2")
    time.sleep(45)
    cluster.testbed("heal", "n2")


def killed_rank(cluster: Cluster, job: str, run: Path) -> None:
    """SIGKILL to all ranks of the step, as by a kernel that is out of memory."""
    cluster.slurm("scancel", "--signal=KILL", f"{job}.0")


def time_limit(cluster: Cluster, job: str, run: Path) -> None:
    """The job was submitted with a limit of two minutes and a warning one minute before."""


FAULTS: dict[str, tuple[Callable, list[str], dict[str, str]]] = {
    "scontrol requeue": (requeue, [], SLOW),
    "preempted by an urgent job": (preempted, [], SLOW),
    "warning (USR1)": (warned, [], SLOW),
    "time limit": (time_limit, ["launcher.time=0:02:00", "launcher.lead=60"], {"TOY_PAUSE": "3"}),
    "all ranks killed": (killed_rank, [], SLOW),
    "node crashed": (crash, [], SLOW),
    "node crashed, noticed late": (crash_unnoticed, [], SLOW),
    "first node crashed": (crash_of_the_first, [], SLOW),
    "link cut for 45 s": (link_cut, [], SLOW),
    "requeue, via=torchrun": (requeue, ["launcher.via=torchrun"], SLOW),
}


def same(run: Path, undisturbed: Path) -> bool:
    found, expected = weights(run), weights(undisturbed)
    equal = found.keys() == expected.keys() and all(
        found[name].tobytes() == value.tobytes() for name, value in expected.items()
    )
    return equal and metrics(run) == metrics(undisturbed)


def suffer(cluster: Cluster, name: str, run: Path, undisturbed: Path) -> str:
    """A row of the table."""
    fault, words, env = FAULTS[name]
    begun = time.monotonic()
    job = cluster.submit(run, *words, **env)
    try:
        until(lambda: step(run) >= 6, 300, lambda: cluster.story(run))
        fault(cluster, job, run)
        state = cluster.ended(run, job, 900)
    finally:
        cluster.slurm("scancel", job)
    starts = (run / "starts.jsonl").read_text().splitlines()
    verdict = (
        "bit-equal, every sample once" if state["status"] == "finished" and same(run, undisturbed) else "NOT the same"
    )
    return f"| {name} | {state['status']} | {len(starts) - 1} | {verdict} | {time.monotonic() - begun:.0f} |"


def sweep_of_four(cluster: Cluster, folder: Path, undisturbed: Path) -> str:
    """Four runs, two at a time."""
    begun = time.monotonic()
    words = [*cluster.words, *RANKS, "launcher.nodes=1", "trainer.devices=1", "launcher.concurrent=2", "seed=0,1,2,3"]
    cluster.vstrain(folder, "-m", *words)
    queued = time.monotonic() - begun
    (table,) = folder.glob("runs/sweeps/*/sweep.json")
    states = [cluster.ended(Path(row["run"]), row["job"], 240)["status"] for row in json.loads(table.read_text())]
    return f"all finished; queued after {queued:.0f} s" if states == ["finished"] * 4 else f"NOT all finished: {states}"


def optuna_sweep(cluster: Cluster, folder: Path, undisturbed: Path) -> str:
    """Two trials that are waited for; the loss of one is not finite."""
    words = [
        *cluster.words,
        *RANKS,
        "launcher.nodes=1",
        "trainer.devices=1",
        "launcher.wait=true",
        "trainer.max_steps=6",
    ]
    words += ["hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", "optim.lr=choice(1e-3,1e30)"]
    words += ["hydra.sweeper.n_jobs=1", "hydra.sweeper.max_failure_rate=1"]
    cluster.vstrain(folder, "-m", *words, code=1)
    (result,) = folder.glob("runs/sweeps/*/optimization_results.yaml")
    found = yaml.safe_load(result.read_text())
    (table,) = folder.glob("runs/sweeps/*/sweep.json")
    states = sorted(row["status"] for row in json.loads(table.read_text()))
    good = states == ["failed", "finished"] and float(next(iter(found["best_params"].values()))) == 1e-3
    return "best value found, the other trial counted as failed" if good else f"NOT so: {states}, {found}"


def submitit_sweep(cluster: Cluster, folder: Path, undisturbed: Path) -> str:
    """Two runs by submitit; the first one is warned (USR2) in the middle."""
    words = [
        *cluster.words,
        "trainer.accelerator=cpu",
        "trainer.devices=4",
        "seed=0,1",
        "hydra/launcher=submitit_slurm",
    ]
    words += ["hydra.launcher.timeout_min=60", "hydra.launcher.cpus_per_task=4", "hydra.launcher.partition=main"]
    line, env = command("-m", *words)
    with (folder / "log").open("w") as log:
        parent = subprocess.Popen(line, cwd=folder, env=env | cluster.env | SLOW, stdout=log, stderr=log)

    def first() -> Path | None:
        for record in folder.glob("runs/sweeps/*/0.json"):
            return Path(json.loads(record.read_text())["run"])
        return None

    until(lambda: first() is not None and step(first()) >= 6, 120, (folder / "log").read_text)
    jobs = cluster.slurm("squeue", "--noheader", "--states=RUNNING", "--format=%i").split()
    cluster.slurm("scancel", "--signal=USR2", *[job for job in jobs if job.endswith("_0")])
    code = parent.wait(300)
    starts = (first() / "starts.jsonl").read_text().splitlines()
    good = code == 0 and len(starts) == 2 and same(first(), undisturbed)
    return "one warned in the middle: requeued, bit-equal" if good else f"NOT so: exit {code}, {len(starts)} starts"


SWEEPS = {"sweep of four": sweep_of_four, "sweep by Optuna": optuna_sweep, "sweep by submitit": submitit_sweep}


def main(names: list[str]) -> int:
    known = [*FAULTS, *SWEEPS]
    unknown = [name for name in names if name not in known]
    if reason := f"no fault {unknown[0]!r}; expected of {', '.join(map(repr, known))}" if unknown else missing():
        print(reason, file=sys.stderr)
        return 2
    script = testbed()
    subprocess.run([script, "up", "-n", "2", "--netns"], check=True, capture_output=True, timeout=300)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "shards").mkdir()
        cluster = Cluster(script, write_depth_shards(home / "shards"))
        undisturbed = home / "undisturbed"
        words = [*cluster.words, "trainer.accelerator=cpu", "trainer.devices=4", f"run.dir={undisturbed}"]
        cluster.vstrain(home, *words)
        print(
            "| fault | ended | restarts | weights and losses | seconds |\n| --- | --- | --- | --- | --- |", flush=True
        )
        rows = []
        for at, name in enumerate(names or known):
            try:
                if name in FAULTS:
                    rows.append(suffer(cluster, name, home / f"run{at}", undisturbed))
                else:
                    (home / str(at)).mkdir()
                    rows.append(f"| {name} | | | {SWEEPS[name](cluster, home / str(at), undisturbed)} | |")
            except (AssertionError, subprocess.SubprocessError) as error:
                rows.append(f"| {name} | NOT ended | | {str(error)[-600:]!r} | |")
            print(rows[-1], flush=True)
    subprocess.run([script, "down"], capture_output=True, timeout=120)
    return int(any("NOT" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
