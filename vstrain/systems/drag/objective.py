"""The training loss of the drag editor (spec drag, section 5): pure tensor functions."""

from __future__ import annotations

import torch
from torch import Tensor


def denoising_loss(answer: Tensor, wanted: Tensor, weight: Tensor, mask: Tensor, mask_weight: float) -> Tensor:
    """(B,) float32: squared error of the network's answer, mean over the latent, times the timestep's
    `weight` (B,).

    answer, wanted (B, C, h, w); mask (B, 1, h, w) in {0, 1}: errors inside count `mask_weight` times those
    outside, in a weighted mean, so that 1 is the plain mean squared error.
    """
    error = (answer.float() - wanted.float()).square().mean(dim=1, keepdim=True)
    share = 1 + (mask_weight - 1) * mask.float()
    return weight * (share * error).sum(dim=(1, 2, 3)) / share.sum(dim=(1, 2, 3))


def kept(draws: Tensor, drop: float) -> Tensor:
    """(B,) bool from uniform draws (B,) in [0, 1): which conditions are not dropped."""
    return draws >= drop


def to_unit(picture: Tensor) -> Tensor:
    """uint8 RGB (B, H, W, 3) -> float32 (B, 3, H, W) in [-1, 1]."""
    return picture.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1


def to_bytes(picture: Tensor) -> Tensor:
    """Float (B, 3, H, W), [-1, 1] with overshoot -> uint8 (B, H, W, 3), clamped and rounded."""
    return ((picture.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
