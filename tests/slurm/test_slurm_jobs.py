"""Runs on a real SLURM, disturbed: each ends with the weights and the losses of one that nobody disturbed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.conftest import PLUGIN, metrics, weights
from tests.slurm.conftest import step, until


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
    until(lambda: step(run) >= 6, 60, lambda: cluster.story(run))
    cluster.slurm("scontrol", "requeue", job)
    state = cluster.ended(run, job)
    assert state["status"] == "finished", cluster.story(run)
    assert len(starts(run)) == 2 and 6 <= starts(run)[1]["step"] < 30
    assert_same(run, undisturbed)
