"""What one rank decides must not hang the others: one small all-reduce a step carries what each of them saw."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Verdict:
    stop: bool
    broken_ranks: list[int]  # ranks whose loss was not finite


def agree(stop: bool, finite: bool) -> Verdict:
    """The same verdict on every rank. One all-reduce of a vector of world + 1 numbers; none on a single process."""
    if not (dist.is_available() and dist.is_initialized()):
        return Verdict(stop, [] if finite else [0])
    world, rank = dist.get_world_size(), dist.get_rank()
    votes = torch.zeros(world + 1)
    votes[world] = float(stop)
    votes[rank] = float(not finite)
    votes = votes.to("cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(votes)
    return Verdict(bool(votes[world] > 0), votes[:world].nonzero().flatten().tolist())


def agreed_signal(raised: int | None) -> str:
    """Name of the weightiest signal that any rank got, the same on all of them; '' for none. `raised`: this rank's."""
    weight = torch.tensor(SIGNALS.index(raised) + 1 if raised else 0)
    if dist.is_available() and dist.is_initialized():
        weight = weight.to("cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(weight, dist.ReduceOp.MAX)
    return ("", *(number.name for number in SIGNALS))[int(weight)]


def check_same(facts: dict[str, str]) -> None:
    """Raise on every rank, naming rank and field, unless all ranks hold the same facts (config hash, data fingerprint)."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    everyone: list[dict | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, facts)
    for rank, other in enumerate(everyone):
        for field, value in everyone[0].items():
            if other[field] != value:
                raise RuntimeError(
                    f"rank {rank} has {field} {other[field]}, rank 0 has {value}: all ranks must run the same"
                )


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
