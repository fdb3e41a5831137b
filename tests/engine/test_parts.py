"""The small parts of the engine against closed forms."""

from __future__ import annotations

import json
import signal

import pytest
import torch

from vstrain.config import checkpoints
from vstrain.config.problems import InputError
from vstrain.config.schema import Optim, Schedule
from vstrain.engine import build, checkpoint, guards
from vstrain.engine.loggers import JsonLines
from vstrain.engine.validation import inference, validate
from vstrain.system import ParamGroup


def schedule(**keys) -> Schedule:
    return Schedule(**({"name": "linear", "warmup_steps": 0, "final": 0.0} | keys))


def test_learning_rate_factors():
    linear = [build.rate_factor(schedule(), step, 10) for step in range(11)]
    assert linear == pytest.approx([1 - step / 10 for step in range(11)])
    warm = schedule(warmup_steps=4, name="constant")
    assert [build.rate_factor(warm, step, 10) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    cosine = schedule(name="cosine", final=0.1)
    assert build.rate_factor(cosine, 0, 8) == 1 and build.rate_factor(cosine, 8, 8) == pytest.approx(0.1)
    assert build.rate_factor(cosine, 4, 8) == pytest.approx(0.55)


def test_groups_keep_their_own_rates_and_decay():
    optim = Optim(name="adamw", lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.3, fused="auto", clip=None)
    a, b = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = build.make_optimizer(
        optim, [ParamGroup("a", [a]), ParamGroup("b", [b], 10.0, 0.0), ParamGroup("empty", [])]
    )
    build.set_learning_rate(optimizer, optim, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.5])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]


def save(folder, step: int, tensors: dict) -> None:
    io = checkpoint.AtomicCheckpointIO({"data": "d"})
    io.save_checkpoint(
        {"state_dict": tensors, "global_step": step, "samples_seen": 4 * step}, folder / checkpoints.name(step)
    )


def test_checkpoints_keep_every_bit_and_shared_tensors(tmp_path):
    tied = torch.randn(3, 4)
    tensors = {"a": tied, "b": tied, "c": tied.t(), "half": torch.randn(5).bfloat16(), "n": torch.tensor(7)}
    save(tmp_path, 3, tensors)
    back = checkpoint.AtomicCheckpointIO({}).load_checkpoint(tmp_path / checkpoints.name(3))
    assert back["samples_seen"] == 12
    assert all(torch.equal(back["state_dict"][name], value) for name, value in tensors.items())


def test_last_moves_and_old_ones_go(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path / "checkpoints", step, {"a": torch.tensor(step)})
        checkpoint.point_last(tmp_path / "checkpoints", step, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "last",
        "step-00000003",
        "step-00000004",
    ]
    path, meta = checkpoints.latest(tmp_path)
    assert path.name == "step-00000004" and meta["step"] == 4 and meta["data"] == "d"


@pytest.mark.parametrize("damage", ["truncate", "flip", "missing", "meta"])
def test_a_damaged_checkpoint_is_never_used(tmp_path, damage):
    for step in (1, 2):
        save(tmp_path / "checkpoints", step, {"a": torch.zeros(100)})
    name = {"missing": "state.pt", "meta": "meta.json"}.get(damage, "model.safetensors")
    file = tmp_path / "checkpoints" / checkpoints.name(2) / name
    data = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "flip":
        data[-5] ^= 1
        file.write_bytes(data)
    else:
        file.write_bytes(data[: len(data) // 2])
    assert checkpoints.latest(tmp_path)[0].name == checkpoints.name(1)
    (tmp_path / "checkpoints" / checkpoints.name(1) / "meta.json").unlink()
    with pytest.raises(InputError, match="none of its 2 checkpoints is whole"):
        checkpoints.latest(tmp_path)


def test_a_full_disk_keeps_the_earlier_checkpoint_and_says_so(tmp_path, monkeypatch):
    save(tmp_path, 1, {"a": torch.zeros(4)})

    def full(*args, **keys):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(InputError, match="cannot write the checkpoint .*earlier checkpoints are untouched"):
        save(tmp_path, 2, {"a": torch.zeros(4)})
    assert [path.name for path in tmp_path.iterdir()] == [checkpoints.name(1)] and checkpoints.meta(
        tmp_path / checkpoints.name(1)
    )


def test_metrics_continue_without_doubles_after_a_crash(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "tra')
    JsonLines(tmp_path, start_step=2).log_metrics({"train/loss": 0.5}, 3)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1}, {"step": 2}, {"step": 3, "train/loss": 0.5}]


def test_a_signal_only_sets_a_flag():
    kept = {number: signal.getsignal(number) for number in guards.SIGNALS}
    try:
        stop = guards.StopFlag()
        stop.install()
        assert stop.raised is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.raised == signal.SIGTERM
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


class Scores(torch.nn.Module):
    """Stands in for a system: its score of a sample is the sample itself."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.frozen = torch.nn.Dropout().eval()
        self.mode = []

    def evaluate(self, batch):
        self.mode.append(self.training)
        return {"score": batch["x"]}


def test_validation_is_a_weighted_mean_and_padding_cannot_poison_it():
    batches = [
        {"x": torch.tensor([1.0, 2.0]), "weight": torch.tensor([1.0, 1.0])},
        {"x": torch.tensor([6.0, float("nan")]), "weight": torch.tensor([1.0, 0.0])},
    ]
    system = Scores()
    assert validate(system, batches)[0] == {"score": 3.0}
    assert system.mode == [False, False] and system.training and not system.frozen.training
    with inference(system):
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
