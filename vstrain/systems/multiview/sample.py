"""Novel views of objects by guided DDIM, condition frames computed once."""

from __future__ import annotations

import torch
from torch import Tensor

from vstrain.diffusion.guidance import guide
from vstrain.diffusion.sampler import sample
from vstrain.diffusion.schedule import NoiseSchedule
from vstrain.systems.multiview.attention import Bank
from vstrain.systems.multiview.config import Sampling
from vstrain.systems.multiview.network import MultiviewUNet
from vstrain.systems.multiview.objective import Conditions, concatenate, nothing


@torch.no_grad()
def sample_targets(
    network: MultiviewUNet,
    schedule: NoiseSchedule,
    conditions: Conditions,
    null_ids: Tensor,
    noise: Tensor,
    config: Sampling,
) -> Tensor:
    """noise (B, T, c, h, w) -> target latents of that shape. The bank lives for this call only, and its
    rows are always [conditional, unconditional]."""
    both = concatenate(conditions, nothing(conditions, null_ids))
    context = network.context(both)
    bank: Bank = {}

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        times = t[:, None].expand(x.shape[:2])
        answer = network(torch.cat([x, x]), torch.cat([times, times]), both, context, bank)
        conditional, unconditional = answer.chunk(2)
        return guide(unconditional, conditional, config.guidance)

    return sample(denoise, schedule, noise, config.steps, clip=config.clip)
