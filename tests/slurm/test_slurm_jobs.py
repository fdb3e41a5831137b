"""Runs on a real SLURM, disturbed: each ends with the weights and the losses of one that nobody disturbed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.conftest import PLUGIN, metrics, until, weights
from tests.slurm.conftest import RANKS, step
from vstrain.config import checkpoints


def assert_same(run: Path, undisturbed: Path) -> None:
    """The same weights bit for bit, and every step once with its loss: no sample lost or seen twice."""
    assert metrics(run) == metrics(undisturbed)
    expected, found = weights(undisturbed), weights(run)
    assert expected.keys() == found.keys()
    assert all(expected[name].tobytes() == found[name].tobytes() for name in expected)


def starts(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "starts.jsonl").read_text().splitlines()]


def test_what_was_queued_is_what_runs_also_after_a_requeue(cluster, undisturbed, tmp_path):
    """Queued behind a held job, its source edited before it starts; then requeued in the middle."""
    plugin = tmp_path / "plugin"
    shutil.copytree(PLUGIN, plugin)
    cluster.slurm("scontrol", "update", "partition=main", "state=down")
    try:
        run = tmp_path / "run"
        job = cluster.submit(run, PYTHONPATH=f"{plugin}:{Path(__file__).parents[2]}", TOY_PAUSE="0.3")
        (plugin / "toy" / "module.py").write_text("raise SystemExit('edited after submission')\n")
    finally:
        cluster.slurm("scontrol", "update", "partition=main", "state=up")
    until(lambda: step(run) >= 6, 180, lambda: cluster.story(run))
    cluster.slurm("scontrol", "requeue", job)
    state = cluster.ended(run, job)
    assert state["status"] == "finished", cluster.story(run)
    assert len(starts(run)) == 2 and 6 <= starts(run)[1]["step"] < 30
    assert_same(run, undisturbed)


def test_a_lost_node_is_waited_for_and_the_run_goes_on(cluster, undisturbed, tmp_path):
    run = tmp_path / "run"
    job = cluster.submit(run, TOY_PAUSE="0.3")
    until(lambda: step(run) >= 6, 180, lambda: cluster.story(run))
    cluster.testbed("crash", "n2", "--now")
    cluster.testbed("restore", "n2")
    state = cluster.ended(run, job)
    assert state["status"] == "finished", cluster.story(run)
    assert len(starts(run)) >= 2
    assert_same(run, undisturbed)


def test_an_exception_is_a_failure_and_a_stop_is_not_undone(cluster, tmp_path):
    """Two jobs at the same time; neither is queued again."""
    broken, endless, waiting = tmp_path / "broken", tmp_path / "endless", tmp_path / "waiting"
    alone = ["trainer.devices=1", "launcher.nodes=1"]
    jobs = {
        broken: cluster.submit(broken, "launcher.nodes=1", TOY_RAISE_AT="3"),
        endless: cluster.submit(endless, *alone, "trainer.max_steps=10000", "launcher.cpus=8", TOY_PAUSE="0.1"),
        waiting: cluster.submit(waiting, *alone, "launcher.extra=['--begin=now+1hour']"),
    }
    cluster.vstrain(tmp_path, "stop", waiting)
    until(lambda: step(endless) >= 3, 180, lambda: cluster.story(endless))
    assert f"job {jobs[endless]} RUNNING" in cluster.vstrain(tmp_path, "status", endless).stdout
    cluster.vstrain(tmp_path, "stop", endless)
    states = {run: cluster.ended(run, job) for run, job in jobs.items()}
    assert states[broken]["status"] == "failed" and states[broken]["error"] == "ArithmeticError: the toy is broken"
    assert {states[endless]["status"], states[waiting]["status"]} == {"stopped"}
    assert [len(starts(run)) for run in (broken, endless)] == [1, 1] and not (waiting / "starts.jsonl").exists()
    assert 3 <= checkpoints.latest(endless)[1]["step"] < 10000
    table = cluster.vstrain(tmp_path, "status", tmp_path).stdout
    assert "failed" in table and "the toy is broken" in table and table.count("stopped") == 2
    assert "ArithmeticError: the toy is broken" in cluster.vstrain(tmp_path, "logs", "-f", broken).stdout
    assert "nodes are taken" not in cluster.vstrain(tmp_path, "logs", endless).stdout
    ending = ["sacct", "-nXo", "exitcode", "-j", jobs[broken]]  # its record may come some seconds later
    until(lambda: cluster.slurm(*ending) == "1:0", 60, lambda: cluster.slurm(*ending), every=0.2)


def test_a_sweep_is_queued_at_once_and_keeps_to_its_limit(cluster, tmp_path):
    words = ["launcher.concurrent=1", "optim.lr=1e-3,3e-4", "trainer.devices=1", "trainer.max_steps=2"]
    done = cluster.vstrain(tmp_path, "-m", *cluster.words, *RANKS, "launcher.nodes=1", *words)
    (table,) = (tmp_path / "runs" / "sweeps").glob("*/sweep.json")
    rows = json.loads(table.read_text())
    assert (
        rows[1]["status"] == "queued"
        and rows[0]["status"] != "finished"
        and f"vstrain status {table.parent}" in done.stderr
    )
    rates = [word.partition("=")[2] for row in rows for word in row["overrides"] if "optim.lr" in word]
    assert list(map(float, rates)) == [1e-3, 3e-4]
    runs = [Path(row["run"]) for row in rows]
    assert {cluster.ended(run, row["job"])["status"] for run, row in zip(runs, rows, strict=True)} == {"finished"}
    assert [metrics(run)[0]["lr"] for run in runs] == [1e-3, 3e-4]
    first, second = (json.loads((run / "starts.jsonl").read_text())["time"] for run in runs)
    assert second > json.loads((runs[0] / "state.json").read_text())["time"] > first
    listed = cluster.vstrain(tmp_path, "status", table.parent).stdout
    assert listed.count("finished") == 2 and listed.count("goodput") == 2
