"""What one rank holds, computes and sends in one micro-batch, by running it on tensors without values.

The rank is in its steady state: gradients of the step before are there when the forward pass starts. What the optimiser adds
is arithmetic (vstrain.engine.plan)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vstrain.engine.tracking import OTHER, Tracker
from vstrain.nn.frozen import Frozen
from vstrain.system import System

CATEGORIES = ("weights", "helpers", "gradients", "inputs")


@dataclass(frozen=True)
class Footprint:
    """Bytes of one rank. at_peak: those of CATEGORIES, `activations` (kept from the forward pass for the backward pass) and
    `temporary` at the moment when most is held; held: what is there all the time. flops, wire: as vstrain.engine.tracking."""

    at_peak: dict[str, int]
    held: dict[str, int]
    flops: int
    wire: dict[str, int]

    @property
    def peak(self) -> int:
        return sum(self.at_peak.values())


def helpers(system: System) -> list[nn.Module]:
    """The frozen networks that are no part of the model: text encoders, codecs, teachers."""
    return [module.net for module in system.modules() if isinstance(module, Frozen)]


def footprint(
    system: System, item: dict, samples: int, *, precision: str, keep_gradients: bool, granularity: int = 512
) -> Footprint:
    """`system`: built, maybe sharded, on the meta device. item: name -> (shape, dtype) of one training item. keep_gradients:
    they stay over the step boundary (buckets of ddp, shards), or are added up over micro-batches."""
    tracker, keys = Tracker(granularity), torch.arange(samples)  # keys are real: a system may branch on its draws
    with FakeTensorMode(allow_non_fake_inputs=True):
        materialise(system)
        batch = {
            name: torch.empty((samples, *shape), dtype=getattr(torch, dtype)) for name, (shape, dtype) in item.items()
        }
        batch |= {"key": keys, "weight": torch.ones(samples)}
        return one_step(system, batch, tracker, precision, keep_gradients)


def one_step(system: System, batch: dict, tracker: Tracker, precision: str, keep_gradients: bool) -> Footprint:
    """Forward and backward of one micro-batch under `tracker`, also on real tensors."""
    trained = [parameter for group in system.param_groups() for parameter in group.params]
    with tracker:
        frozen = [tensor for net in helpers(system) for tensor in (*net.parameters(), *net.buffers())]
        tracker.watch(frozen, "helpers")
        tracker.watch((*system.parameters(), *system.buffers()), "weights")
        tracker.watch(batch.values(), "inputs")
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
            tracker.watch([parameter.grad], "gradients")
            parameter.register_post_accumulate_grad_hook(lambda p: tracker.watch([p.grad], "gradients"))
        held = Counter(tracker.live)
        tracker.start_again()
        with torch.autocast(system.device.type, torch.bfloat16, enabled=precision.startswith("bf16")):
            loss = system.training_step(batch, 0)["loss"]
        saved = tracker.live[OTHER]
        if not keep_gradients:
            for parameter in trained:
                parameter.grad = None
        loss.backward()
    at_peak = {name: tracker.at_peak[name] for name in CATEGORIES}
    at_peak["activations"] = min(saved, tracker.at_peak[OTHER])
    at_peak["temporary"] = tracker.at_peak[OTHER] - at_peak["activations"]
    return Footprint(at_peak, dict(held), tracker.flops, dict(tracker.wire))


def materialise(system: System) -> None:
    """From the meta device to the CPU, without values. Weights that are shared stay shared, which `to_empty` forgets."""
    names: dict[int, list[str]] = {}
    for name, parameter in system.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    system.to_empty(device="cpu")
    for first, *others in names.values():
        for name in others:
            owner, _, leaf = name.rpartition(".")
            setattr(system.get_submodule(owner), leaf, system.get_parameter(first))
