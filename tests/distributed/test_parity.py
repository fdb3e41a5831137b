"""`vstrain parity`: it passes where strategies agree, and it fails where a system is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vstrain.config import checkpoints
from vstrain.verbs.deviations import deviation
from vstrain.verbs.nudge import nudged


def rows(folder) -> dict[str, dict]:
    return {fact["row"]: fact for fact in json.loads((folder / "parity.json").read_text())}


def test_strategies_agree_and_what_cannot_run_says_why(vstrain, toy_words, tmp_path):
    words = ["strategies=[ddp,fsdp2]", "ranks=[2,3]", "what=[resumed,accumulated]", "ema.decay=0.9"]
    done = vstrain("parity", *toy_words, *words, f"run.dir={tmp_path / 'parity'}")
    found = rows(tmp_path / "parity")
    for strategy in ("ddp", "fsdp2"):
        assert found[f"{strategy}-2-resumed"]["resume_equal"] is True
        for what in ("plain", "resumed", "accumulated"):
            fact = found[f"{strategy}-2-{what}"]
            assert fact["verdict"] == "ok" and fact["relative"] < 1e-4 and fact["loss"] < 1e-5, fact
        assert found[f"{strategy}-3-plain"]["verdict"] == "not run"
    assert "must be a multiple of" in found["ddp-3-plain"]["reason"] and "0 beyond" in done.stdout
    assert not (tmp_path / "parity" / "rows").exists()


def test_a_loss_that_depends_on_the_rank_is_found(vstrain, toy_words, tmp_path):
    words = ["strategies=[ddp]", "ranks=[2]", "what=[plain]", f"run.dir={tmp_path / 'parity'}"]
    done = vstrain("parity", *toy_words, *words, code=1, TOY_FLAW="rank")
    found = rows(tmp_path / "parity")
    fact, alone = found["ddp-2-plain"], found["rounding"]
    assert fact["verdict"] == "beyond" and fact["loss"] > 0.1 and "1 beyond" in done.stdout
    assert alone["verdict"] == "beside" and 0 < alone["relative"] < 1e-4 and alone["loss"] < 1e-5


def test_a_nudged_run_begins_with_other_last_bits_and_nothing_else(tmp_path):
    run, reference = tmp_path / "run", tmp_path / "reference"
    folder = reference / "checkpoints" / checkpoints.name(1)
    folder.mkdir(parents=True)
    run.mkdir()
    values = np.linspace(-2, 3, 1000, dtype=np.float32)
    save_file({"w": values, "n": np.array([7])}, folder / "model.safetensors")
    files = {"model.safetensors": checkpoints.checksum(folder / "model.safetensors")}
    (folder / "meta.json").write_text(json.dumps({"step": 1, "files": files}))
    (reference / "metrics.jsonl").write_text('{"step": 1, "train/loss": 0.5}\n{"step": 2, "train/loss": 0.4}\n')
    nudged(run, reference, 1, seed=0)
    path, facts = checkpoints.latest(run)
    found = load_file(path / "model.safetensors")
    apart = np.abs(found["w"].view(np.int32) - values.view(np.int32))
    assert facts["step"] == 1 and set(apart) == {0, 1} and 400 < apart.sum() < 600 and found["n"] == 7
    assert (run / "metrics.jsonl").read_text() == '{"step": 1, "train/loss": 0.5}\n'
    assert (load_file(folder / "model.safetensors")["w"] == values).all()


def test_a_resume_that_forgets_something_is_found(vstrain, toy_words, tmp_path):
    words = ["strategies=[single]", "ranks=[1]", "what=[resumed]", f"run.dir={tmp_path / 'parity'}", "tolerance=1"]
    vstrain("parity", *toy_words, *words, code=1, TOY_FLAW="history")
    fact = rows(tmp_path / "parity")["single-1-resumed"]
    assert fact["resume_equal"] is False and "not bit-equal" in fact["reason"]


def test_deviations_in_closed_form(tmp_path):
    """Weights went 3-4-5 from their beginning, another run ended 0.5 beside them."""
    ends = {"reference": ([3.0, 4.0], 2.0), "other": ([3.0, 4.5], 2.2)}
    for name, (values, loss) in ends.items():
        for folder, weights in (("begin", [0.0, 0.0]), ("last", values)):
            (tmp_path / name / "checkpoints" / folder).mkdir(parents=True)
            path = tmp_path / name / "checkpoints" / folder / "model.safetensors"
            save_file({"w": np.array(weights, np.float32), "n": np.array([7])}, path)
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps({"step": 1, "train/loss": loss, "lr": 1.0}) + "\n")
    found = deviation(tmp_path / "other", tmp_path / "reference", "begin")
    assert (found.loss, found.absolute, found.relative) == pytest.approx((0.1, 0.5, 0.1)) and not found.equal
    assert deviation(tmp_path / "other", tmp_path / "other", "begin").equal
