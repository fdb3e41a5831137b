"""Steps that must not be taken: left out bit for bit, kept in quarantine, judged alike after a resume."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tests.conftest import metrics, weights
from vstrain.config.schema import Guards, Spike
from vstrain.engine.health import gradients, policy
from vstrain.engine.health.lockstep import Seen

EVERY = ["callbacks.checkpoint.every=1", "callbacks.checkpoint.keep=20", "callbacks.validation.every=100"]


def state(run, step: int) -> dict:
    """Weights and optimiser state after so many steps, as bytes."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    files = [load_file(folder / f"{part}.safetensors") for part in ("model", "optimizer")]
    return {name: value.tobytes() for tensors in files for name, value in tensors.items()}


def test_a_broken_loss_on_one_of_two_ranks_is_left_out_by_both(vstrain, toy_words, tmp_path, depth_shards):
    run = tmp_path / "run"
    words = [
        "trainer.devices=2",
        "trainer.accumulate=2",
        "guards.non_finite=skip",
        "guards.weights=true",
        "optim.clip=1",
    ]
    done = vstrain(*toy_words, *EVERY, *words, f"run.dir={run}", TOY_TROUBLE="3:1:nan")
    assert "the loss of rank 1 (" in done.stderr and "is not finite at step 3; the step is skipped" in done.stderr
    assert state(run, 3) == state(run, 2)
    assert all(state(run, step) != state(run, step + 1) for step in (1, 3, 4))
    meta = json.loads((run / "checkpoints" / "last" / "meta.json").read_text())
    assert (meta["step"], meta["samples_seen"]) == (12, 48)
    lines = {line["step"]: line for line in metrics(run) if "lr" in line}
    assert "train/loss" not in lines[3] and [lines[n]["guard/skipped"] for n in (2, 3, 12)] == [0, 1, 1]
    kept = run / "quarantine" / "step-00000003-rank-1"
    assert sorted((run / "quarantine").iterdir()) == [kept, run / "quarantine" / "step-00000003-weights"]
    record = json.loads((kept / "record.json").read_text())
    assert (record["step"], record["loss"]) == (3, "nan")
    # step 3 has positions 8 to 11: micro-batch 0 of both ranks, then micro-batch 1
    assert [[s["position"] for s in micro["samples"]] for micro in record["micro"]] == [[9], [11]]
    assert all(micro["loss"] == "nan" for micro in record["micro"])
    for number, micro in enumerate(record["micro"]):
        found = load_file(kept / f"batch-{number}.safetensors")
        expected = picture(depth_shards, micro["samples"][0])
        assert (found["image"][0] == expected).all() or (found["image"][0] == expected[:, ::-1]).all()
    met = load_file(run / "quarantine" / "step-00000003-weights" / "model.safetensors")
    assert {name: value.tobytes() for name, value in met.items()}.items() <= state(run, 2).items()


def picture(folder, sample: dict) -> np.ndarray:
    """By way of tarfile and OpenCV, from the place that the record names."""
    import tarfile

    import cv2

    with tarfile.open(sample["shard"]) as tar:
        data = tar.extractfile(f"{sample['key']}.png").read()
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def test_spikes_are_judged_after_a_resume_as_before(vstrain, toy_words, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    words = ["trainer.accumulate=2", "guards.spike={factor:5,window:4,action:skip}", *EVERY]
    vstrain(*toy_words, *words, f"run.dir={whole}", TOY_TROUBLE="7:0:1000")
    assert state(whole, 7) == state(whole, 6) != state(whole, 8)
    record = json.loads((whole / "quarantine" / "step-00000007-rank-0" / "record.json").read_text())
    assert "the loss spikes at step 7" in record["reason"] and "last 4 steps" in record["reason"]
    vstrain(*toy_words, *words, f"run.dir={cut}", code=75, TOY_TROUBLE="7:0:1000", TOY_SIGNAL_AT="9")
    vstrain("train", f"resume={cut}", TOY_TROUBLE="7:0:1000")  # three losses of the window lie before the cut
    assert metrics(cut) == metrics(whole) and metrics(whole)[-2]["guard/spikes"] == 1
    assert all((weights(cut)[name] == value).all() for name, value in weights(whole).items())


def test_a_gradient_that_is_not_finite_and_too_many_skipped_steps(vstrain, toy_words, tmp_path):
    run = tmp_path / "run"
    words = [*toy_words, *EVERY, "guards.non_finite=skip", "guards.max_skipped=0", f"run.dir={run}"]
    done = vstrain(*words, code=1, TOY_TROUBLE="2:0:gradient")
    assert "the gradient is not finite at step 2, the losses are, and guards.max_skipped=0" in done.stderr
    assert [path.name for path in (run / "quarantine").iterdir()] == ["step-00000002-rank-0"]
    assert json.loads((run / "state.json").read_text())["status"] == "failed"


def test_norms_and_clipping_equal_those_of_torch():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(5, 7), torch.nn.Linear(7, 3)]
    for layer in layers:
        layer.weight.grad, layer.bias.grad = torch.randn_like(layer.weight), None
    optimizer = torch.optim.AdamW([p for layer in layers for p in layer.parameters()])
    expected = [layer.weight.grad.clone() for layer in layers]
    total = torch.nn.utils.get_total_norm(expected)
    found = gradients.Gradients(optimizer)
    assert float(found.norm_squared()) ** 0.5 == pytest.approx(float(total), rel=1e-6)
    found.clip(1e3, float(total))
    assert all((layer.weight.grad == e).all() for layer, e in zip(layers, expected, strict=True))
    found.clip(0.5, float(total))
    for gradient in expected:
        gradient.mul_(0.5 / (total + 1e-6))
    assert all(torch.allclose(layer.weight.grad, e) for layer, e in zip(layers, expected, strict=True))


def test_the_window_of_a_spike_holds_only_steps_that_were_taken():
    guard = policy.Guard(guards("skip"))
    for loss in (1.0, 2.0, 3.0):
        assert not guard.judge(seen(loss), torch.device("cpu")).reason
    assert guard.judge(seen(20.1), torch.device("cpu")).skip  # more than 10 x the median 2
    assert guard.judge(seen(19.9), torch.device("cpu")).reason == ""  # the spike is not in the window
    assert guard.judge(seen(29.0), torch.device("cpu")).reason == ""  # of 2, 3, 19.9 the median is 3
    warned = policy.Guard(guards("warn"))
    warned.load_state_dict({"recent": [1.0, 1.0, 1.0], "skipped": 0, "spikes": 0})
    found = warned.judge(seen(11.0), torch.device("cpu"))
    assert found.reason and not found.skip and found.error is None and warned.state_dict()["recent"][-1] == 11.0


def guards(action: str) -> Guards:
    spike = Spike(factor=10, window=3, action=action)
    return Guards(non_finite="stop", spike=spike, max_skipped=5, quarantine=0, weights=False, timeout=60)


def seen(loss: float) -> Seen:
    return Seen(False, False, [loss], 1.0, {"config": "a", "data": "b", "step": 1})


def test_replay_gives_the_recorded_loss_exactly_and_names_the_module_that_broke(vstrain, toy_words, tmp_path):
    """A spike that is only a warning leaves a batch with a finite loss: dropout, flips and noise must come back as they were."""
    run, broken = tmp_path / "run", tmp_path / "broken"
    words = ["system.dropout=0.3", "trainer.accumulate=2", "guards.spike={factor:1.001,window:1,action:warn}", *EVERY]
    vstrain(*toy_words, *words, "trainer.max_steps=6", f"run.dir={run}")
    kept = sorted((run / "quarantine").iterdir())[0]
    record = json.loads((kept / "record.json").read_text())
    done = vstrain("replay", kept, f"run.dir={tmp_path / 'again'}")
    found = json.loads((tmp_path / "again" / "replay.json").read_text())
    assert found["losses"] == [micro["loss"] for micro in record["micro"]] and len(set(found["losses"])) == 2
    assert float(found["grad_norm"]) == pytest.approx(float(record["grad_norm"]), rel=1e-6)
    assert "the recorded loss exactly" in done.stderr and "every module's output is finite" in done.stderr
    other = vstrain("replay", kept, f"ckpt={run / 'checkpoints' / 'last'}", f"run.dir={tmp_path / 'other'}").stderr
    assert "exactly" not in other and "weights of step 6, the batch met those of step" in other

    vstrain(*toy_words, *EVERY, "optim.lr=1e30", "guards.weights=true", f"run.dir={broken}", code=1)
    folder = next(path for path in sorted((broken / "quarantine").iterdir()) if path.name.endswith("rank-0"))
    done = vstrain("replay", folder)
    assert "first output that is not finite: network." in done.stderr and "the recorded loss exactly" in done.stderr
    assert "does not exist" in vstrain("replay", "nowhere", code=2).stderr
