"""Two ranks, one of which stands still in a step: the run ends within the set time and says who it was."""

from __future__ import annotations

import json
import time

from vstrain.config import rundir
from vstrain.engine.health.watchdog import name_culprit


def test_a_rank_that_hangs_is_named_and_the_run_ends(vstrain, toy_words, tmp_path):
    run = tmp_path / "run"
    began = time.monotonic()
    words = ["trainer.devices=2", "guards.timeout=6", "callbacks.validation.every=100", f"run.dir={run}"]
    done = vstrain(*toy_words, *words, code=1, timeout=120, TOY_HANG="3:1")
    assert time.monotonic() - began < 100  # the sleep is 1000 s long
    sentence = next(line for line in done.stderr.splitlines() if " hangs: " in line)
    assert sentence.startswith("rank 1 (") and "in the forward pass of step 3 for " in sentence
    assert "(guards.timeout=6), and the other ranks wait for it" in sentence
    state = json.loads((run / "state.json").read_text())
    assert (state["status"], state["error"]) == ("failed", sentence)
    stacks = [(run / "logs" / f"rank-{rank}.stacks").read_text() for rank in (0, 1)]
    assert all(sentence in text for text in stacks)
    assert "in hang" in stacks[1] and "in hang" not in stacks[0] and "backward" in stacks[0]


def beat(rank: int, turn: int, section: str = "backward", alive: bool = True) -> dict:
    return {"rank": rank, "host": f"h{rank}", "alive": alive, "turn": turn, "step": 9, "section": section, "seconds": 7.0,
            "silent": 0.0 if alive else 42.0}  # fmt: skip


def test_who_is_to_blame():
    who, text = name_culprit([beat(0, 8), beat(1, 7, "data"), beat(2, 8)], 5)
    assert who == 1 and text.startswith("rank 1 (h1) hangs: waiting for data of step 9 for 7 s (guards.timeout=5)")
    who, text = name_culprit([beat(0, 6), beat(1, 7), beat(2, 5, alive=False)], 5)
    assert who == 2 and "rank 2 (h2) has not been heard of for 42 s" in text
    who, text = name_culprit([beat(0, 8), beat(1, 8)], 5)
    assert who is None and text.startswith("all 2 ranks hang: in the backward pass") and "collective" in text
    assert name_culprit([beat(0, 8)], 5)[0] == 0


def test_the_first_failure_stays(tmp_path):
    began = time.time()
    rundir.set_state(tmp_path, "failed", error="of an earlier start")
    rundir.set_failed(tmp_path, began + 100, "first", 1)
    rundir.set_failed(tmp_path, began, "second", 1)
    assert rundir.state(tmp_path)["error"] == "first"
