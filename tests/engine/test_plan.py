"""`vstrain plan` against counts by hand, and on every shipped experiment."""

from __future__ import annotations

import json

import pytest

from tests.config.test_shipped import EXPERIMENTS, words


def test_the_plug_ins_plan_equals_the_count_by_hand(vstrain, toy_words, tmp_path):
    done = vstrain("plan", *toy_words, "trainer.devices=2", "hardware=cpu", f"run.dir={tmp_path / 'plan'}")
    facts = json.loads((tmp_path / "plan" / "plan.json").read_text())
    parameters = (3 * 4 * 9 + 4) + (4 + 1)
    assert facts["parameters"] == facts["trained"] == parameters
    assert facts["memory"]["weights"] == facts["memory"]["gradients"] == 4 * parameters
    assert facts["memory"]["optimiser"] == 8 * parameters and facts["checkpoint_bytes"] == 12 * parameters
    assert facts["memory"]["inputs"] == 2 * (16 * 16 * 3 + 16 * 16 * 4 + 8 + 4)  # two of the four samples of a step
    assert (
        facts["strategy"] == "ddp" and facts["wire_bytes_per_step"] == 4 * parameters
    )  # a ring of two sends half, twice
    assert (facts["samples"], facts["data_samples"], facts["epochs"]) == (48, 22, 48 / 22)
    assert (facts["shards"], facts["shards_per_rank"]) == (3, 1.5)
    assert facts["fits"] and facts["cheapest"] == "ddp"
    pixels = 16 * 16
    first, second = 2 * pixels * 4 * 3 * 9, 2 * pixels * 4
    # the first layer's input needs no gradient: forward and weights; the second: forward, weights and input
    assert facts["flops_per_step"] == 4 * (2 * first + 3 * second)
    assert f"{parameters:,}" in done.stderr and "fits: needs 1.0 of 8 GiB" in done.stderr


def test_what_does_not_fit_is_said_with_what_would(vstrain, toy_words, tmp_path):
    """A device of 10 KiB: too small for ddp with its whole batch, and every other strategy."""
    small = ["hardware=cpu", "hardware.reserve=0", "hardware.write=1e-12", f"hardware.memory={10 / 2**20}"]
    done = vstrain("plan", *toy_words, "trainer.devices=2", *small, f"run.dir={tmp_path / 'plan'}")
    facts = json.loads((tmp_path / "plan" / "plan.json").read_text())
    assert not facts["fits"] and facts["cheapest"] is None
    assert facts["peak_bytes"] > 10 * 2**10 / 1.1
    assert "cut the 2 samples of a micro-batch" in done.stderr and "TOO LATE" in done.stderr
    refused = vstrain("plan", *toy_words, "hardware=abacus", code=2)
    assert "abacus" in refused.stderr and "h100" in refused.stderr


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_can_be_planned(experiment, vstrain, tmp_path):
    vstrain("plan", *words(experiment), f"run.dir={tmp_path / 'plan'}")
    facts = json.loads((tmp_path / "plan" / "plan.json").read_text())
    assert facts["parameters"] >= facts["trained"] > 1e5 and facts["flops_per_step"] > 1e9
