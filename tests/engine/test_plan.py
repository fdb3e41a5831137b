"""`vstrain plan` against counts by hand, and on every shipped experiment."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest

from tests.config.test_shipped import EXPERIMENTS, compose, words
from tests.conftest import PLUGIN, command
from vstrain.config.command import Command
from vstrain.config.problems import ConfigError, InputError
from vstrain.config.rundir import CONF
from vstrain.config.verbs import PlanConfig
from vstrain.engine import plan
from vstrain.verbs import embedded, launching
from vstrain.verbs.plan import data_facts, verdict, with_hardware


def test_the_plug_ins_plan_equals_the_count_by_hand(vstrain, toy_words, tmp_path):
    done = vstrain(
        "plan", *toy_words, "trainer.devices=2", "ema.decay=0.9", "hardware=cpu", f"run.dir={tmp_path / 'plan'}"
    )
    facts = json.loads((tmp_path / "plan" / "plan.json").read_text())
    parameters = (3 * 4 * 9 + 4) + (4 + 1)
    assert facts["parameters"] == facts["trained"] == parameters
    assert facts["memory"]["weights"] == facts["memory"]["gradients"] == 4 * parameters
    assert facts["memory"]["optimiser"] == 8 * parameters and facts["memory"]["average"] == 4 * parameters
    assert facts["checkpoint_bytes"] == (4 + 8 + 4) * parameters
    shares = {option["name"]: option["memory"]["average"] for option in facts["strategies"]}
    assert shares == {"ddp": 4 * parameters} | {f"zero{stage}": 4 * parameters // 2 for stage in (1, 2, 3)}
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


def test_what_does_not_fit_is_said_with_what_would(vstrain, toy_words, tmp_path, monkeypatch):
    """A device of 10 KiB: too small for ddp with its whole batch, and every other strategy."""
    _, environment = command()
    for name in ("PYTHONPATH", "VSTRAIN_CONF"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.syspath_prepend(str(PLUGIN))
    small = ["hardware=cpu", "hardware.reserve=0", "hardware.write=1e-12", f"hardware.memory={10 / 2**20}"]
    done = vstrain("plan", *toy_words, "trainer.devices=2", *small, f"run.dir={tmp_path / 'plan'}")
    facts = json.loads((tmp_path / "plan" / "plan.json").read_text())
    assert not facts["fits"] and facts["cheapest"] is None and facts["memory"]["average"] == 0
    assert facts["peak_bytes"] > 10 * 2**10 / 1.1
    assert "cut the 2 samples of a micro-batch" in done.stderr and "TOO LATE" in done.stderr
    config = compose(*toy_words, "trainer.devices=2")
    assert verdict(config, tmp_path / "in-8-gib", "cpu") == (True, "fits: needs 1.0 of 8 GiB with margin and reserve")
    own = tmp_path / "own.yaml"
    own.write_text((CONF / "hardware" / "cpu.yaml").read_text().replace("memory: 8.0", "memory: 16.0"))
    assert "1.0 of 16 GiB" in verdict(config, tmp_path / "in-16-gib", str(own))[1]
    with pytest.raises(ConfigError, match="did you mean a100_40"):
        verdict(config, tmp_path / "nowhere", "a100_4")
    refused = vstrain("plan", *toy_words, "hardware=abacus", code=2)
    assert "abacus" in refused.stderr and "h100" in refused.stderr


@pytest.mark.parametrize(("unfit", "refused"), [("refuse", True), ("warn", False)])
def test_a_run_that_cannot_fit_is_not_queued_unless_the_site_says_so(unfit, refused, tmp_path, monkeypatch, capsys):
    slurm = ["launcher=slurm", "launcher.hardware=rtx4090", f"launcher.unfit={unfit}"]
    config = compose("experiment=depth_teacher", *slurm)
    monkeypatch.setattr(launching.plan, "verdict", lambda *arguments: (False, "does not fit: needs 99 GiB"))
    with pytest.raises(InputError, match="on rtx4090, .* does not fit") if refused else nullcontext():
        launching.check_fit(config, tmp_path)
    assert ("does not fit" in capsys.readouterr().err) is not refused


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_can_be_planned(experiment, tmp_path):
    words_of_plan = ["verb=plan", *with_hardware(words(experiment))]
    config = Command("train", PlanConfig, words_of_plan, embedded.check).config()
    (tmp_path / "data.json").write_text(json.dumps(data_facts(config)))
    plan.run(config, tmp_path)
    facts = json.loads((tmp_path / "plan.json").read_text())
    assert facts["parameters"] >= facts["trained"] > 1e5 and facts["flops_per_step"] > 1e9
    assert facts["memory"]["activations"] > 1e6 and facts["fits"]
