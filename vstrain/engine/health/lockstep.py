"""One small all-reduce a step, before the optimiser step takes effect: what each rank saw becomes what all of them know.

The vector, float64, summed over ranks:

    0  ranks      1 each
    1  stop       1 where a signal asked for the end
    2  exhausted  1 where the data ran out too early
    3  loss       1 where a loss of the step is not finite
    4  gradient   1 where a gradient is not finite
    5  sum of the ranks' mean losses (0 where not finite)
    6  sum of the ranks' shares of the squared gradient norm (0 where not finite)
    7… for each of config, data and step: a code c of 20 bits and its square

All ranks hold the same code exactly if n Σc² = (Σc)² (Cauchy-Schwarz); both sides are integers that float64 holds for up to
8192 ranks. Its length does not grow with the ranks: who stands out is asked in a second exchange, after trouble was seen.
"""

from __future__ import annotations

import math
import socket
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
import xxhash

SAME = ("config", "data", "step")
BITS = 20


@dataclass(frozen=True)
class Seen:
    """What one rank saw of a step. `losses`: one a micro-batch; `norm_squared`: this rank's share (see gradients)."""

    stop: bool
    exhausted: bool
    losses: list[float]
    norm_squared: float
    facts: dict[str, Any]  # SAME


@dataclass(frozen=True)
class Agreed:
    """What all ranks know of a step. Rank lists are filled only when there was trouble."""

    stop: bool
    loss: float  # mean over ranks and micro-batches; nan when one is not finite
    norm: float  # of the whole gradient, before clipping; nan when not finite
    broken: list[int] = field(default_factory=list)  # ranks whose loss is not finite
    worst: int = 0  # the rank with the largest finite loss
    exhausted: list[int] = field(default_factory=list)  # ranks whose data ran out
    hosts: list[str] = field(default_factory=list)
    difference: str | None = None  # one sentence, when ranks do not run the same


def agree(seen: Seen, device: torch.device, details: bool = False) -> Agreed:
    """The same answer on every rank. `device`: where the group reduces. `details`: ask for rank lists in any case."""
    loss = sum(seen.losses) / len(seen.losses)
    fine, smooth = math.isfinite(loss), math.isfinite(seen.norm_squared)
    vector = [
        1.0,
        seen.stop,
        seen.exhausted,
        not fine,
        not smooth,
        loss if fine else 0.0,
        seen.norm_squared if smooth else 0.0,
    ]
    for name in SAME:
        code = _code(seen.facts[name])
        vector += [code, code**2]
    if _together():
        shared = torch.tensor(vector, dtype=torch.float64, device=device)
        dist.all_reduce(shared)
        vector = shared.tolist()
    ranks, stop, exhausted, broken, overflown, loss_sum, norm_sum, *sums = vector
    same = all(ranks * squares == total**2 for total, squares in zip(sums[::2], sums[1::2], strict=True))
    nan = float("nan")
    agreed = Agreed(stop > 0, nan if broken else loss_sum / ranks, nan if overflown else norm_sum**0.5)
    if same and not (exhausted or broken or overflown or details):
        return agreed
    return _asked(seen, agreed, loss if fine else nan)


def _asked(seen: Seen, agreed: Agreed, loss: float) -> Agreed:
    """The second exchange: who it was."""
    everyone = gather({"exhausted": seen.exhausted, "loss": loss, "facts": seen.facts, "host": socket.gethostname()})
    return Agreed(
        agreed.stop,
        agreed.loss,
        agreed.norm,
        broken=[rank for rank, one in enumerate(everyone) if one["loss"] != one["loss"]],
        worst=max(range(len(everyone)), key=lambda rank: everyone[rank]["loss"]),
        exhausted=[rank for rank, one in enumerate(everyone) if one["exhausted"]],
        hosts=[one["host"] for one in everyone],
        difference=difference([one["facts"] for one in everyone], [one["host"] for one in everyone]),
    )


def check_same(facts: dict[str, Any]) -> None:
    """Raise on every rank, naming rank and field, unless all ranks hold the same facts (config hash, data fingerprint)."""
    everyone = gather((facts, socket.gethostname()))
    sentence = difference([one for one, _ in everyone], [host for _, host in everyone])
    if sentence:
        raise RuntimeError(sentence)


def difference(facts: list[dict[str, Any]], hosts: list[str]) -> str | None:
    """A sentence that names the first rank and field outside the majority (rank 0's side where there is none)."""
    for name in facts[0]:
        values = [one[name] for one in facts]
        common = max(values, key=Counter(values).get)
        for rank, value in enumerate(values):
            if value != common:
                return (
                    f"rank {rank} ({hosts[rank]}) has {name} {value}, rank {values.index(common)} has {common}: "
                    "all ranks must run the same"
                )
    return None


def gather(value: Any) -> list[Any]:
    """The value of every rank, on every rank."""
    if not _together():
        return [value]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, value)
    return everyone


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def _code(value: Any) -> int:
    return xxhash.xxh3_64_intdigest(str(value).encode()) >> (64 - BITS)
