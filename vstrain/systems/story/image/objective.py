"""The training objective of story images: denoise the pictures of a story together. Pure tensor functions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vstrain.data import keyed
from vstrain.diffusion.schedule import NoiseSchedule


def story_noise(schedule: NoiseSchedule, keys: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Noise like `latents` (S, K, C, h, w) and timesteps (S,): a noise for every picture, one timestep for a
    story, because its pictures are also sampled together."""
    stories, images, channels, *side = latents.shape
    noise, t = schedule.draw(keys, (images * channels, *side))
    return noise.reshape(latents.shape).to(latents.dtype), t


def story_loss(
    denoise: Callable[[Tensor, Tensor], Tensor],
    schedule: NoiseSchedule,
    latents: Tensor,
    noise: Tensor,
    t: Tensor,
) -> Tensor:
    """(S,) float32: the weighted error of each story, a mean over its pictures.

    `denoise` maps x_t (S * K, C, h, w) and t (S * K,) to the network's answer.
    """
    images = latents.shape[1]
    x0, noise, t = latents.flatten(0, 1), noise.flatten(0, 1), t.repeat_interleave(images)
    prediction = denoise(schedule.add_noise(x0, noise, t), t)
    return schedule.loss(prediction, x0, noise, t).reshape(-1, images).mean(dim=1)


def drop_captions(tokens: Tensor, empty: Tensor, keys: Tensor, probability: float) -> Tensor:
    """tokens (S, K, length), with all captions of a story replaced by `empty` (length,) with
    `probability`."""
    drop = keyed.uniform(keys, "caption_drop") < probability
    return torch.where(drop[:, None, None], empty, tokens)
