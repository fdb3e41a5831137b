"""The moving average of weights against its closed form, and through whole runs."""

from __future__ import annotations

import json

import pytest
import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file

from tests.conftest import metrics
from vstrain.config import checkpoints
from vstrain.config.schema import Ema
from vstrain.engine.ema import Average, decay


class Net(LightningModule):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3, dtype=dtype))
        self.still = torch.nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("count", torch.zeros(()))


class FakeTrainer:
    def __init__(self, net):
        self.lightning_module, self.strategy, self.optimizers = net, object(), []


def ema(**keys) -> Ema:
    return Ema(**({"decay": 0.9, "every": 1, "start": 0, "warmup": "none", "power": 0.5} | keys))


def averaged(config: Ema, steps: int, dtype=torch.float32) -> tuple[Net, Average]:
    """After `steps` steps that set the weights to 1, 2, 3, …"""
    net = Net(dtype)
    average = Average(config, FakeTrainer(net))
    for step in range(1, steps + 1):
        net.weight.data.fill_(step)
        average.update(step)
    return net, average


@pytest.mark.parametrize("every, start", [(1, 0), (3, 0), (1, 4), (2, 3)])
def test_the_average_is_the_weighted_sum_of_the_weights_it_saw(every, start):
    _, average = averaged(ema(every=every, start=start), 11)
    seen = [step for step in range(start, 12) if (step - start) % every == 0]
    expected = 0.9 ** (len(seen) - 1) * seen[0]
    expected += sum(0.1 * 0.9 ** (len(seen) - 1 - n) * step for n, step in enumerate(seen) if n)
    torch.testing.assert_close(average.average["weight"].tensor, torch.full((3,), expected))
    assert list(average.average) == ["weight"] and average.begun


def test_warmups():
    assert [decay(ema(decay=0.5, warmup="ratio"), n) for n in (1, 2, 100)] == pytest.approx([2 / 11, 3 / 12, 0.5])
    assert [decay(ema(warmup="power"), n) for n in (1, 3, 1000)] == pytest.approx([1 - 2**-0.5, 0.5, 0.9])


def test_before_its_start_there_is_no_average_and_afterwards_it_stands_in_bit_for_bit():
    net, average = averaged(ema(start=4), 3)
    with average.in_place():
        assert net.weight[0] == 3 and not average.begun
    net, average = averaged(ema(), 7)
    own, mean = net.weight.clone(), average.average["weight"].tensor.clone()
    with pytest.raises(KeyError), average.in_place():
        assert torch.equal(net.weight, mean) and not torch.equal(net.weight, own)
        raise KeyError
    assert torch.equal(net.weight, own) and torch.equal(average.average["weight"].tensor, mean)


def test_it_stays_in_float32_for_weights_of_bfloat16():
    """1 + 2^-9 is no bfloat16: an average in the weights' own precision would stay at 1."""
    net = Net(torch.bfloat16)
    net.weight.data.fill_(1)
    average = Average(ema(decay=0.5), FakeTrainer(net))
    net.weight.data.fill_(1 + 2**-7)
    average.update(1)
    assert average.average["weight"].tensor.tolist() == [1 + 2**-8] * 3
    average.update(2)
    assert average.average["weight"].tensor.tolist() == [1 + 2**-8 + 2**-9] * 3


def test_runs_save_it_resume_it_bit_for_bit_and_use_it(vstrain, toy_words, tmp_path):
    words = [*toy_words, "ema.decay=0.8", "ema.every=2", "ema.start=2"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    vstrain(*words, f"run.dir={whole}")
    vstrain(*words, f"run.dir={run}", code=75, TOY_SIGNAL_AT="7")
    vstrain("train", f"resume={run}")
    folders = [folder / "checkpoints" / "last" for folder in (whole, run)]
    mean, again = (load_file(folder / "ema.safetensors") for folder in folders)
    assert all(torch.equal(value, again[name]) for name, value in mean.items())
    assert metrics(run) == metrics(whole)
    own = load_file(folders[0] / "model.safetensors")
    assert mean.keys() == own.keys() and any(not torch.equal(mean[name], own[name]) for name in own)
    files = [[file.stem for file in checkpoints.weight_files(folders[0], averaged)] for averaged in (True, False)]
    assert files == [["model", "ema"], ["model"]]
    vstrain("eval", f"ckpt={whole}", f"run.dir={tmp_path / 'eval'}")
    found = json.loads((tmp_path / "eval" / "eval.json").read_text())["metrics"]["loss"]
    assert found == pytest.approx(metrics(whole)[-1]["val/loss"], rel=1e-6)
