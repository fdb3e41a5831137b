"""The small parts of the engine against closed forms."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading

import pytest
import torch
from safetensors.torch import load_file

from vstrain.config import checkpoints
from vstrain.config.problems import InputError
from vstrain.config.schema import Checkpoint, Optim, Schedule
from vstrain.data.stream import Share
from vstrain.engine import build, checkpoint, guards
from vstrain.engine.checkpoint import folder
from vstrain.engine.checkpoint.pieces import Piece, Reader, piece
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


def save(folder, step: int, tensors: dict, policy: Checkpoint | None = None, **facts) -> None:
    """A checkpoint of a run on one process, as training makes it."""
    saver = checkpoint.Saver(folder, policy or Checkpoint(every=1, keep=2), {"data": "d"}, Share(), writers=1)
    state = {part: {name: piece(value, 0) for name, value in tensors.items()} for part in ("model", "optimizer")}
    saver.save(state, {"step": step, "values": {}} | facts, wait=True)


def test_checkpoints_keep_every_bit_and_shared_tensors(tmp_path):
    tied = torch.randn(3, 4)
    tensors = {"a": tied, "b": tied, "c": tied.t(), "half": torch.randn(5).bfloat16(), "n": torch.tensor(7),
               "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), "yes": torch.tensor([True, False]),
               "none": torch.zeros(0, 3)}  # fmt: skip
    save(tmp_path, 3, tensors)
    path = tmp_path / checkpoints.name(3)
    for back in (load_file(path / "model.safetensors"), read(path, tensors)):  # the library's reader and ours
        assert back.keys() == tensors.keys()
        assert all(
            torch.equal(back[name], value) and back[name].dtype == value.dtype for name, value in tensors.items()
        )


def read(path, like: dict) -> dict:
    reader, found = Reader(checkpoints.files(path, "model")), {name: torch.zeros_like(x) for name, x in like.items()}
    for name, value in found.items():
        reader.fill(name, piece(value, 0))
    return found


def test_pieces_of_any_cut_make_the_tensor_and_the_file(tmp_path):
    """Written by three ranks with cuts anywhere, read by two with others; joined into the file that one rank would write."""
    whole = {"a": torch.randn(7, 5), "b": torch.randn(11).bfloat16(), "c": torch.randint(9, (4,))}
    files = {}
    for rank, (low, high) in enumerate([(0.0, 0.3), (0.3, 0.4), (0.4, 1.0)]):
        cut = {name: (int(x.numel() * low), int(x.numel() * high)) for name, x in whole.items()}
        pieces = {
            name: Piece(x.flatten()[slice(*cut[name])], tuple(x.shape), cut[name][0], True) for name, x in whole.items()
        }
        files |= folder.write_files(
            tmp_path / "spread", {"model": {n: p for n, p in pieces.items() if p.tensor.numel()}}, rank, 3
        )
    assert len(files) == 3
    reader = Reader(checkpoints.files(tmp_path / "spread", "model"))
    for start, end in ((0, 13), (13, 35)):
        part = torch.zeros(end - start)
        reader.fill("a", Piece(part, (7, 5), start, True))
        assert torch.equal(part, whole["a"].flatten()[start:end])
    with pytest.raises(InputError, match=r"a has shape \[7, 5\], expected \[5, 7\]"):
        reader.fill("a", Piece(torch.zeros(5, 7), (5, 7), 0, True))
    (tmp_path / "spread" / "meta.json").write_text(json.dumps({"files": files}))
    joined = checkpoints.weights(tmp_path / "spread")
    folder.write_file(tmp_path / "one.safetensors", {name: piece(x, 0) for name, x in whole.items()})
    assert joined.read_bytes() == (tmp_path / "one.safetensors").read_bytes()
    assert checkpoints.meta(tmp_path / "spread")["files"].keys() == {*files, "model.safetensors"}
    (tmp_path / "spread" / "model-00001-of-00003.safetensors").unlink()
    joined.unlink()
    with pytest.raises(InputError, match="do not make it up"):
        checkpoints.weights(tmp_path / "spread")


def test_last_moves_and_old_ones_go(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path / "checkpoints", step, {"a": torch.tensor(step)})
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["last", "step-00000003", "step-00000004"]
    path, meta = checkpoints.latest(tmp_path)
    assert path.name == "step-00000004" and meta["step"] == 4 and meta["data"] == "d"
    assert checkpoints.latest(tmp_path, before=4)[1]["step"] == 3 and checkpoints.latest(tmp_path, before=3) is None


def test_which_checkpoints_stay(tmp_path):
    losses = {10: 5.0, 20: 1.0, 30: 2.0, 40: None, 50: 3.0, 60: float("nan"), 70: 4.0}
    policy = Checkpoint(every=10, keep=2)
    assert checkpoints.kept(losses, policy) == {60, 70}
    assert checkpoints.kept(losses, policy.model_copy(update={"keep_every": 25})) == {50, 60, 70}
    best = {"metric": "val/loss", "mode": "min", "keep": 2}
    assert checkpoints.kept(losses, Checkpoint(every=10, keep=1, best=best)) == {20, 30, 70}
    assert checkpoints.kept(losses, Checkpoint(every=10, keep=1, best=best | {"mode": "max"})) == {10, 70}
    for step, loss in losses.items():  # the same, one after the other on disk
        policy = Checkpoint(every=10, keep=1, keep_every=40, best=best)
        save(tmp_path, step, {"a": torch.zeros(1)}, policy, metrics={"val/loss": loss} if loss else {})
    assert {path.name for path in tmp_path.glob("step-*")} == {checkpoints.name(step) for step in (20, 30, 40, 70)}


def test_a_save_in_the_background_holds_the_state_of_its_own_step(tmp_path):
    """The weights change while it is written; nothing is seen of it before it is whole; the content is that of a waiting save."""
    weight = torch.arange(1000.0)
    policy = Checkpoint(every=1, keep=5)
    saver = checkpoint.Saver(tmp_path, policy, {}, Share(), writers=1)
    go, write = threading.Event(), folder.write_files
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "write_files", lambda *arguments: go.wait(60) and write(*arguments))
        saver.save({"model": {"w": piece(weight, 0)}}, {"step": 1, "values": {}}, wait=False)
        weight += 1
        saver.poll()
        assert not list(tmp_path.glob("step-*")) and not (tmp_path / "last").exists()
        go.set()
        saver.finish()
    weight -= 1
    saver.save({"model": {"w": piece(weight, 0)}}, {"step": 2, "values": {}}, wait=True)
    one, two = (tmp_path / checkpoints.name(step) / "model.safetensors" for step in (1, 2))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("damage", ["truncate", "flip", "missing", "meta"])
def test_a_damaged_checkpoint_is_never_used(tmp_path, damage):
    for step in (1, 2):
        save(tmp_path / "checkpoints", step, {"a": torch.zeros(100)})
    name = {"missing": "optimizer.safetensors", "meta": "meta.json"}.get(damage, "model.safetensors")
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk: a full disk is NOT tested")
def test_a_full_disk_loses_nothing_and_training_goes_on(tmp_path, caplog):
    """A tmpfs of one MB. In the middle of a run a failed save is said and the next one tried; at the end it is an error."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    try:
        saver = checkpoint.Saver(disk, Checkpoint(every=1, keep=1), {}, Share(), writers=1)
        small, large = ({"model": {"w": piece(torch.ones(count), 0)}} for count in (1000, 1_000_000))
        saver.save(small, {"step": 1, "values": {}}, wait=True)
        with caplog.at_level("ERROR", logger="vstrain"):
            saver.save(large, {"step": 2, "values": {}}, wait=False)
            saver.finish()
        assert "cannot write the checkpoint" in caplog.text and "No space left" in caplog.text
        assert "earlier checkpoints are untouched" in caplog.text and "training goes on" in caplog.text
        with pytest.raises(InputError, match="step-00000003: cannot write the checkpoint"):
            saver.save(large, {"step": 3, "values": {}}, wait=True)
        assert {path.name for path in disk.iterdir()} == {"last", checkpoints.name(1)}
        assert checkpoints.meta(disk / "last")["step"] == 1
        saver.save(small, {"step": 4, "values": {}}, wait=True)
        assert checkpoints.meta(disk / "last")["step"] == 4
    finally:
        subprocess.run(["umount", disk], check=True)


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
