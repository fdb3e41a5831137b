"""torchrun's agent: what it makes of a signal and of a failure."""

from __future__ import annotations

import signal

import pytest
from torch.distributed.elastic.metrics import prof
from torch.distributed.elastic.multiprocessing import SignalException

from vstrain import agent


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "resolved.yaml").write_text("launcher: {name: local, nodes: 1}\n")
    return str(tmp_path)


def raises(error: Exception):
    def main(words):
        raise error

    return main


def test_a_signal_is_a_stop_and_an_error_is_an_error(run_dir, monkeypatch):
    monkeypatch.setattr(agent.run, "main", raises(SignalException("got signal", signal.SIGINT)))
    assert agent.start("2", run_dir) == 75
    monkeypatch.setattr(agent.run, "main", raises(UnboundLocalError("start")))
    with pytest.raises(UnboundLocalError):
        agent.start("2", run_dir)


def test_a_signal_at_the_first_line_of_torchs_timer_is_a_stop_too(run_dir, monkeypatch):
    """torch.distributed.elastic.metrics.prof measures in its `finally` from a time that it has not taken yet."""

    def clock():
        raise SignalException("got signal", signal.SIGINT)

    monkeypatch.setattr("torch.distributed.elastic.metrics.api.time.time", clock)
    monkeypatch.setattr(agent.run, "main", prof(lambda words: None))
    with pytest.raises(UnboundLocalError):
        agent.run.main([])
    assert agent.start("2", run_dir) == 75
