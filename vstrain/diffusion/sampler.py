"""From noise to a sample: the one denoising loop. It draws no random number of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vstrain.diffusion.schedule import NoiseSchedule


@torch.no_grad()
def sample(
    denoise: Callable[[Tensor, Tensor], Tensor],
    schedule: NoiseSchedule,
    noise: Tensor,
    steps: int,
    eta: float = 0.0,
    variance_noise: Callable[[int], Tensor] | None = None,
    spacing: str = "trailing",
    clip: float | None = None,
) -> Tensor:
    """DDIM (arXiv 2010.02502) over `steps` timesteps, from `noise` (B, ...) to a sample of its shape.

    `denoise(x_t, t)` is the network's answer (guidance included) to x_t (B, ...) at t (B,) int64. `eta` > 0
    adds fresh noise, which `variance_noise(i)` gives for step i = 0, 1, ...; `clip` bounds the predicted x0
    to [-clip, clip].
    """
    if eta > 0 and variance_noise is None:
        raise ValueError("eta > 0 needs variance_noise: the sampler draws no noise of its own")
    scheduler = schedule.scheduler("ddim", spacing, clip)
    scheduler.set_timesteps(steps)
    x = noise
    for i, t in enumerate(scheduler.timesteps):
        prediction = denoise(x, t.to(x.device).expand(len(x)))
        fresh = variance_noise(i) if eta > 0 else None
        x = scheduler.step(
            prediction, int(t), x, eta=eta, variance_noise=fresh, use_clipped_model_output=clip is not None
        ).prev_sample
    return x
