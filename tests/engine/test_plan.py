"""`vstrain plan` against counts by hand, and on every shipped experiment."""

from __future__ import annotations

import json

import pytest

from tests.config.test_shipped import EXPERIMENTS, words


def test_the_plug_ins_plan_equals_the_count_by_hand(vstrain, toy_words, tmp_path):
    done = vstrain("plan", *toy_words, "trainer.devices=2", f"run.dir={tmp_path / 'plan'}")
    facts = json.loads((tmp_path / "plan" / "plan.json").read_text())
    parameters = (3 * 4 * 9 + 4) + (4 + 1)
    assert facts["parameters"] == facts["trained"] == parameters
    assert facts["weights_bytes"] == facts["gradients_bytes"] == 4 * parameters
    assert facts["optimiser_bytes"] == 8 * parameters and facts["checkpoint_bytes"] == 12 * parameters
    assert facts["wire_bytes_per_step"] == 4 * parameters  # a ring of two sends half, twice
    pixels = 16 * 16
    first, second = 2 * pixels * 4 * 3 * 9, 2 * pixels * 4
    # the first layer's input needs no gradient: forward and weights; the second: forward, weights and input
    assert facts["flops_per_step"] == 4 * (2 * first + 3 * second)
    assert f"{parameters:,}" in done.stderr


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_can_be_planned(experiment, vstrain, tmp_path):
    vstrain("plan", *words(experiment), f"run.dir={tmp_path / 'plan'}")
    facts = json.loads((tmp_path / "plan" / "plan.json").read_text())
    assert facts["parameters"] >= facts["trained"] > 1e5 and facts["flops_per_step"] > 1e9
