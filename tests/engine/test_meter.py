"""The clock of a run: sections add up, FLOPs are those of the closed form, goodput counts only what is part of the history."""

from __future__ import annotations

import json
import time

import pytest
import torch

from tests.conftest import metrics
from vstrain.engine import hardware
from vstrain.engine.health import meter


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets: `clock[0]` seconds."""
    now = [100.0]
    monkeypatch.setattr(meter.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(meter.time, "time", lambda: now[0])
    return now


def test_sections_add_up(clock):
    found = meter.Meter(start_step=4)
    clock[0] += 1000  # set-up, before the first window
    found.restart(4)
    for _ in range(2):
        for section, seconds in (("data", 1), ("forward", 2), ("backward", 4)):
            found.enter(section)
            clock[0] += seconds
        with found.inside("agreement"):
            clock[0] += 0.5
        found.enter("log")
        with found.inside("save"):
            clock[0] += 10
        clock[0] += 0.25
    window = found.window(6)
    expected = {
        "step": 17.75,
        "data": 1,
        "compute": 6,
        "communication": 0.5,
        "save": 10,
        "validation": 0,
        "other": 0.25,
    }
    assert window == {f"time/{name}": seconds for name, seconds in expected.items()}
    assert found.useful_now() == 15.0
    found.restart(6)
    assert found.window(7)["time/step"] == 0 and found.useful_now() == 15.0
    again = meter.Meter()
    assert again.turn == 0
    with again.inside("data"):
        pass
    assert again.turn == 2


def test_goodput_over_a_crash(clock, tmp_path):
    """100 s to step 10 (saved), 50 s more that a crash throws away, 30 s until the next start, 100 s to step 20."""
    first = meter.Ledger(tmp_path, 0, writes=True)
    clock[0] += 100
    first.note(10, 100)
    first.count(7.0)
    clock[0] += 50
    assert first.goodput(150) == 1.0
    clock[0] += 30
    second = meter.Ledger(tmp_path, 10, writes=True)
    assert second.flops == 7.0
    clock[0] += 100
    assert second.goodput(100) == pytest.approx(200 / 280)
    second.note(20, 100)
    assert meter.Ledger(tmp_path, 20, writes=False).before == 200
    assert meter.Ledger(tmp_path, 10, writes=False).before == 100


def test_flops_of_a_linear_layer_and_the_peak_of_a_device():
    layer, x = torch.nn.Linear(8, 16), torch.randn(5, 8, requires_grad=True)
    count = meter.FlopCount()
    layer(x).sum().backward()
    assert count.end(5) == 3 * 2 * 8 * 16  # forward, gradient of weights, gradient of inputs
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert meter.speed(2e12, 8, 4.0, 2, cpu, True) == {"time/tflops": 2.0}
    assert meter.speed(None, 8, 4.0, 2, cpu, True) == {}
    assert hardware.peak("NVIDIA H100 80GB HBM3", True) == 989e12 and hardware.peak("NVIDIA H100 PCIe", True) == 756e12
    assert hardware.peak("NVIDIA A100-SXM4-80GB", False) == 19.5e12 and hardware.peak("Pocket calculator", True) is None
    assert hardware.peak("NVIDIA L4", True) == 121e12 and hardware.peak("NVIDIA L40S", True) == 362e12
    assert cuda.type == "cuda"


def test_a_run_logs_where_its_time_went(vstrain, toy_words, tmp_path):
    run = tmp_path / "run"
    began = time.time()
    vstrain(
        *toy_words,
        f"run.dir={run}",
        "trainer.accumulate=2",
        "callbacks.validation.every=3",
        code=75,
        TOY_SIGNAL_AT="11",
    )
    vstrain("train", f"resume={run}")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "lr" in line]
    assert len(lines) == 12
    for line in lines:
        parts = ("data", "compute", "communication", "save", "validation", "other")
        assert line["time/step"] == pytest.approx(sum(line[f"time/{part}"] for part in parts))
        assert line["time/samples_per_second"] == pytest.approx(4 / line["time/step"])
        assert 0 < line["time/goodput"] < 1 and line["memory/rss_gib"] > 0.05 and line["time/tflops"] > 0
    assert lines[0]["time/compute"] > 0 and lines[3]["time/validation"] > 0 and lines[4]["time/save"] > 0
    clock = [json.loads(line) for line in (run / "clock.jsonl").read_text().splitlines()]
    assert sum("started" in line for line in clock) == sum("flops" in line for line in clock) == 1
    useful = clock[-1]["useful"]
    assert clock[-1]["step"] == 12 and useful < time.time() - began
    width = 4  # 3 x 3 convolution from 3 channels, then 1 x 1 to one, 16 x 16 pixels; no gradient of the picture
    first, second = 2 * 256 * 27 * width, 2 * 256 * width
    assert next(line["flops"] for line in clock if "flops" in line) == 2 * first + 3 * second
    assert metrics(run)  # the names that the clock decides are left out of comparisons
