"""One whole copy of the model a process: `single`, and `ddp` with gradients averaged by all-reduce."""

from __future__ import annotations

from datetime import timedelta

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

TIMEOUT = timedelta(minutes=30)


def single():
    return "auto"


class FixedBuckets(DDPStrategy):
    """DDP lays its gradient buckets out anew after the first backward pass. Where a gradient stands in its bucket decides the
    order in which three or more ranks add it up, so that the first step after a resume would round differently from the
    same step of an undisturbed run. A backward pass of zeros beforehand settles the layout for all steps."""

    def _setup_model(self, model: torch.nn.Module) -> DistributedDataParallel:
        wrapped = super()._setup_model(model)
        wrapped.reducer.prepare_for_backward([])
        sum(p.sum() * 0 for p in wrapped.parameters() if p.requires_grad).backward()
        wrapped.zero_grad()
        return wrapped


def ddp() -> DDPStrategy:
    """gloo on the CPU, NCCL on CUDA. Unused parameters are an error: a system freezes what never gets a gradient."""
    return FixedBuckets(find_unused_parameters=False, gradient_as_bucket_view=True, timeout=TIMEOUT)


def contiguous(network: nn.Module) -> None:
    """Weights in row-major order, as whoever shards them needs them: some are channels_last, and a side of 1 may have any
    stride."""
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous().view(-1).view(parameter.shape)
