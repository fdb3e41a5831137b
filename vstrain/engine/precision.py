"""Weights in bfloat16: half the memory of weights, gradients and moments."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from lightning.pytorch.plugins import Precision

from vstrain.system import System


class BFloat16(Precision):
    """`trainer.precision=bf16-true`. Lightning's own casts buffers, targets and whatever a step creates to bfloat16 too: noise
    schedules, timesteps and losses would lose their digits. Here the weights alone are bfloat16 (`cast`, before sharding)
    and operators follow autocast's rules, so what a system computes in float32 stays in float32."""

    precision = "bf16-true"

    def __init__(self, device: str):
        self.device = device

    def forward_context(self) -> AbstractContextManager:
        return torch.autocast(self.device, torch.bfloat16)


def cast(system: System) -> None:
    """The floating-point parameters of `system` to bfloat16; buffers and `Frozen` helpers stay as they are."""
    for parameter in system.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.bfloat16()
