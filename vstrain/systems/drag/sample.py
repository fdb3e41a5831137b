"""One edit: from a noised source to candidates, guided on the points alone (spec drag, section 4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vstrain.data import keyed
from vstrain.diffusion.guidance import guide
from vstrain.diffusion.sampler import sample
from vstrain.diffusion.schedule import NoiseSchedule
from vstrain.systems.drag.config import Sampling
from vstrain.systems.drag.network import Conditions, DragModel
from vstrain.systems.drag.objective import to_bytes, to_unit

# guidance at u = i / n in [0, 1), from w at the first of n steps towards 1
GUIDANCE: dict[str, Callable[[float, float], float]] = {
    "none": lambda w, u: w,
    "linear": lambda w, u: w * (1 - u) + u,
    "square": lambda w, u: w * (1 - u**2) + u**2,
    "quadratic": lambda w, u: w * (1 - u**3) + u**3,  # the published name of the cubic one
    "inv_square": lambda w, u: (w - 1) * (1 - u) ** 2 + 1,
}


def guidance_scales(name: str, largest: float, steps: int) -> list[float]:
    """The guidance of every sampling step, the noisiest first."""
    return [GUIDANCE[name](largest, i / steps) for i in range(steps)]


def prior(source: Tensor, noise: Tensor, schedule: NoiseSchedule, config: Sampling) -> Tensor:
    """The first latent (B, C, h, w): plain noise, or the source latent under the noise of `prior_t`."""
    if config.prior == "noise":
        return noise
    last = len(schedule.alphas_cumprod) - 1
    t = last if config.prior_t == "last" else int(timesteps(schedule, config)[0])
    return schedule.add_noise(source, noise, torch.full((len(source),), t, device=source.device))


def timesteps(schedule: NoiseSchedule, config: Sampling) -> Tensor:
    scheduler = schedule.scheduler("ddim", config.spacing)
    scheduler.set_timesteps(config.steps)
    return scheduler.timesteps


def guided(model: DragModel, conditions: Conditions, scales: dict[int, float]) -> Callable[[Tensor, Tensor], Tensor]:
    """The denoiser of `sample`; `scales` by timestep. Both branches run as one batch; at 1 points alone."""
    null = conditions.without_points()
    both = null.map(lambda *pair: torch.cat(pair), conditions)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        scale = scales[int(t[0])]
        if scale == 1:
            return model(x, t, conditions)
        unguided, pointed = model(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return guide(unguided, pointed, scale)

    return denoise


def composite(edited: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """uint8 (..., H, W, 3), mask bool (..., H, W): the source itself where the mask is False, bit for bit."""
    return torch.where(mask[..., None], edited, source)


@torch.no_grad()
def edit(
    model: DragModel,
    schedule: NoiseSchedule,
    config: Sampling,
    source: Tensor,
    mask: Tensor,
    maps: Tensor,
    seeds: list[int],
    with_points: bool = True,
) -> Tensor:
    """One candidate a seed: uint8 (B, len(seeds), H, W, 3) from source uint8 (B, H, W, 3), mask bool (B, H,
    W), id maps int (B, 2, H, W). A candidate depends on its own seed alone; outside of the mask it is the
    source, bit for bit. Without points it is what the null branch makes, unguided."""
    n = len(seeds)
    pixels = to_unit(source)
    conditions = model.conditions(pixels, mask, maps).map(lambda x: x.repeat_interleave(n, dim=0))
    if with_points:
        scales = guidance_scales(config.guidance_schedule, config.guidance, config.steps)
    else:
        conditions, scales = conditions.without_points(), [1.0] * config.steps
    latent = model.codec.encode(pixels).repeat_interleave(n, dim=0)
    keys = torch.tensor(seeds, device=source.device).repeat(len(source))
    noise = keyed.normal(keys, tuple(latent.shape[1:]), "prior")
    denoise = guided(model, conditions, dict(zip(timesteps(schedule, config).tolist(), scales, strict=True)))
    first = prior(latent, noise, schedule, config)
    result = sample(denoise, schedule, first, config.steps, spacing=config.spacing, clip=config.clip)
    edited = to_bytes(model.codec.decode(result)).unflatten(0, (len(source), n))
    return composite(edited, source[:, None], mask[:, None])
