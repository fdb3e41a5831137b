"""A rehearsal finds what is wrong and passes what is right: on made-up records, and on whole runs of the plug-in system."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from vstrain.config import checkpoints, rehearsal
from vstrain.config.problems import ConfigError
from vstrain.verbs import rehearsal_check, rehearse

STEPS = 4
KEYS = {step: [10 * step + n for n in range(4)] for step in range(1, STEPS + 1)}


def made(folder, rows, losses, weight=1.0):
    """A run directory with records (attempt, step, rank, keys), losses by line and weights."""
    (folder / rehearsal.RECORD).mkdir(parents=True)
    for rank in {row[2] for row in rows}:
        lines = [json.dumps({"attempt": a, "step": s, "rank": r, "keys": k}) + "\n" for a, s, r, k in rows if r == rank]
        (folder / rehearsal.RECORD / f"rank-{rank}.jsonl").write_text("".join(lines))
    metrics = [{"step": step, "train/loss": loss, "time/samples_per_second": time.monotonic()} for step, loss in losses]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    path = folder / "checkpoints" / checkpoints.name(STEPS)
    path.mkdir(parents=True)
    save_file({"w": np.full(8, weight, np.float32)}, path / checkpoints.WEIGHTS)
    files = {checkpoints.WEIGHTS: checkpoints.checksum(path / checkpoints.WEIGHTS)}
    (path / checkpoints.META).write_text(json.dumps({"step": STEPS, "files": files}))
    return folder


def split(step, attempt=1, ranks=2):
    share = 4 // ranks
    return [(attempt, step, rank, KEYS[step][rank * share : (rank + 1) * share]) for rank in range(ranks)]


CURVE = [(step, 1 / step) for step in KEYS]
WHOLE = [row for step in KEYS for row in split(step)]


@pytest.mark.parametrize(
    ("rows", "losses", "weight", "expected"),
    [
        (WHOLE, CURVE, 1.0, (True, 0, True, "bit-equal", "bit-equal")),
        # step 3 and 4 again, the last time on one rank
        ([*WHOLE, *split(3, 2, 1), *split(4, 2, 1)], CURVE, 1.0, (True, 2, True, "bit-equal", "bit-equal")),
        # the second launch began one step too late: the samples of step 3 are lost
        ([*split(1), *split(2), (2, 3, 0, KEYS[4])], CURVE, 1.0, (False, 0, False, "bit-equal", "bit-equal")),
        # a rank had the other's samples, so some came twice
        ([*WHOLE[:-1], (1, 4, 1, KEYS[4][:2])], CURVE, 1.0, (False, 0, False, "bit-equal", "bit-equal")),
        (WHOLE, [*CURVE[:-1], (4, 0.25 + 1e-9)], 1.0, (False, 0, True, "differs", "bit-equal")),
        (WHOLE, [*CURVE, (4, 0.25)], 1.0, (False, 0, True, "differs", "bit-equal")),  # a line that stands there twice
        (WHOLE, CURVE, 1.0 + 1e-6, (False, 0, True, "bit-equal", "differs")),
    ],
)
def test_what_a_row_says(rows, losses, weight, expected, tmp_path):
    reference, run = made(tmp_path / "a", WHOLE, CURVE), made(tmp_path / "b", rows, losses, weight)
    row = rehearsal_check.compare("x", reference, run, True, exact=True)
    assert (row.passed, row.redone, row.samples, row.curve, row.weights) == expected
    assert not rehearsal_check.compare("x", reference, run, False, exact=True).passed


def test_another_number_of_ranks_may_round_but_not_more(tmp_path):
    reference = made(tmp_path / "a", WHOLE, CURVE)
    near = made(tmp_path / "b", WHOLE, [(step, loss * (1 + 1e-5)) for step, loss in CURVE], 1 + 1e-5)
    far = made(tmp_path / "c", WHOLE, [(step, loss * 1.01) for step, loss in CURVE], 1.01)
    row = rehearsal_check.compare("x", reference, near, True, exact=False)
    assert row.passed and (row.curve, row.weights) == ("within 1e-05", "within 1e-05")
    row = rehearsal_check.compare("x", reference, far, True, exact=False)
    assert not row.passed and (row.curve, row.weights) == ("differs", "differs")


def test_lost_samples_must_be_named_and_no_other_may_move(tmp_path):
    reference = made(tmp_path / "a", WHOLE, CURVE)
    replaced = [*WHOLE[:-1], (1, 4, 1, [42, 999])]  # in step 4, sample 43 by 999
    run = made(tmp_path / "b", replaced, [*CURVE[:-1], (4, 7.0)])
    assert rehearsal_check.compare_with_damage("x", reference, run, True, {43}).passed
    assert not rehearsal_check.compare_with_damage("x", reference, run, True, {33}).passed  # not the one that is named
    assert not rehearsal_check.compare_with_damage("x", reference, run, True, set()).passed
    early = made(tmp_path / "c", replaced, [(1, 7.0), *CURVE[1:]])
    assert not rehearsal_check.compare_with_damage("x", reference, early, True, {43}).passed


def test_own_words():
    assert rehearse.own_words(["a=1", "ranks=4", "faults=kill,nan"]) == (4, ["kill", "nan"], ["a=1"])
    assert rehearse.own_words(["a=1"]) == (2, list(rehearse.FAULTS), ["a=1"])
    with pytest.raises(ConfigError, match="no fault 'fire'"):
        rehearse.own_words(["faults=fire"])
    with pytest.raises(ConfigError, match="expected 2, 3 or 4"):
        rehearse.own_words(["ranks=1"])


def test_faults_are_survived_and_state_that_no_checkpoint_holds_is_found(vstrain, toy_words, tmp_path):
    """The planted mistake: in one of the runs, the loss depends on the step at which its process began."""
    play, hidden = tmp_path / "play", {"TOY_HIDDEN": "kill_in_save"}
    done = vstrain(
        "rehearse", *toy_words, "faults=ranks,kill_in_save", f"run.dir={play}", code=1, timeout=600, **hidden
    )
    found = json.loads((play / "rehearsal.json").read_text())
    ranks, save = found["faults"]
    assert ranks["passed"] and ranks["samples"] and ranks["redone"] == 0 and ranks["curve"] != "differs"
    # the save is killed in the background, while training goes on
    assert save["survived"] and save["samples"] and save["redone"] >= 4
    assert not save["passed"] and (save["curve"], save["weights"]) == ("differs", "differs")
    assert not found["passed"] and "1 of 2 faults survived" in done.stdout and found["versions"]["torch"]
