"""Signals that ask for a stop, and sums over ranks. What ranks agree on at each step: vstrain.engine.health."""

from __future__ import annotations

import os
import signal

import torch
import torch.distributed as dist

SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)  # a later one outweighs an earlier one


class StopFlag:
    """Signals only set a flag; the run saves and stops at the next step boundary. A second Ctrl-C stops at once."""

    def __init__(self):
        self.raised: int | None = None

    def install(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame) -> None:
        if self.raised == signal.SIGINT and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        self.raised = number


def agreed_signal(raised: int | None) -> str:
    """Name of the weightiest signal that any rank got, the same on all of them; '' for none. `raised`: this rank's."""
    weight = torch.tensor(SIGNALS.index(raised) + 1 if raised else 0)
    if dist.is_available() and dist.is_initialized():
        weight = weight.to("cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(weight, dist.ReduceOp.MAX)
    return ("", *(number.name for number in SIGNALS))[int(weight)]


def mean_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Element-wise mean of a vector over ranks."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values
