"""The predicted frames between two pictures against the true ones, beside two ways to fill them without a model."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from vstrain.system import Report
from vstrain.systems.story.motion.module import System
from vstrain.systems.story.motion.predictor import interpolate

CLIPS = 8  # that are sampled for the report


def baselines(pixels: Tensor) -> dict[str, Tensor]:
    """Clips (B, L, 3, H, W) made of their first and last frame: the nearer of the two, and a cross-fade."""
    frames = pixels.shape[1]
    early = torch.arange(frames, device=pixels.device) < (frames + 1) // 2
    flat = pixels.flatten(2)[:, :, None]  # (B, L, 1, 3 * H * W), as if a picture were one token
    return {
        "nearest_end": torch.where(early[:, None, None, None], pixels[:, :1], pixels[:, -1:]),
        "cross_fade": interpolate(flat[:, 0], flat[:, -1], frames).reshape(pixels.shape),
    }


def psnr(clips: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of the frames between the ends; (B, L, 3, H, W) in [-1, 1]. Mean of clips."""
    error = (clips - truth)[:, 1:-1].square().flatten(1).mean(dim=1)
    return (10 * torch.log10(4 / error)).mean().item()


@torch.no_grad()
def report(system: System, train_batches: Iterable, val_batches: Iterable[dict[str, Tensor]]) -> Report:
    """PSNR of the in-between frames of held-out clips: of the model and of both baselines."""
    batch = {name: x[:CLIPS].to(system.device) for name, x in next(iter(val_batches)).items()}
    truth = system.pixels(batch)
    clips = {"model": system.draw(batch["key"], truth, batch["tokens"]), **baselines(truth)}
    metrics = {f"{name}/psnr": psnr(frames, truth) for name, frames in clips.items()}
    lines = [f"frames between the ends, {len(truth)} held-out clips: PSNR in dB"]
    lines += [f"{name:12}{metrics[f'{name}/psnr']:8.2f}" for name in clips]
    return Report(metrics, "\n".join(lines))
