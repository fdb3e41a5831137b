"""Novel views of held-out objects against what needs no training."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from vstrain.system import Report, System
from vstrain.systems.multiview.objective import shuffled

Batch = dict[str, Tensor]
NAMES = {
    "model": "model",
    "other_object": "model, told about another object",
    "nearest_view": "nearest condition view, copied",
    "mean_view": "mean of the condition views",
}


@torch.no_grad()
def report(system: System, train_batches: Iterable[Batch], val_batches: Iterable[Batch]) -> Report:
    """PSNR in dB of sampled target views over `val_batches`: of the model, of the model under the conditions of another
    object, and of two answers made from the condition views."""
    total, count = dict.fromkeys(NAMES, 0.0), 0.0
    for batch in val_batches:
        batch = {name: value.to(system.device) for name, value in batch.items()}
        conditions = system.conditions(batch)
        seen = batch["present"][..., None, None, None]
        mean = (batch["conditions"] * seen).sum(dim=1, keepdim=True) / seen.sum(dim=1, keepdim=True)
        answers = {
            "model": system.sample(batch, conditions),
            "other_object": system.sample(batch, shuffled(conditions)),
            "nearest_view": nearest_views(batch),
            "mean_view": mean.expand_as(batch["targets"]),
        }
        for name, pictures in answers.items():
            total[name] += (psnr(pictures, batch["targets"]) * batch["weight"]).sum().item()
        count += batch["weight"].sum().item()
    metrics = {f"{name}/psnr": value / count for name, value in total.items()}
    lines = [f"  {NAMES[name]:<34}{metrics[f'{name}/psnr']:6.2f}" for name in NAMES]
    heading = f"Novel views of {round(count)} held-out objects, PSNR in dB (higher is better)"
    return Report(metrics, "\n".join([heading, *lines]))


def nearest_views(batch: Batch) -> Tensor:
    """For every target the present condition view whose camera is nearest: (B, T, 3, H, W)."""
    targets = batch["targets"].shape[1]
    sin_e, sin_a, _, cos_e, cos_a, _ = batch["code"][..., 4:].unbind(-1)
    position = torch.stack([cos_e * cos_a, cos_e * sin_a, sin_e], dim=-1)
    distance = torch.cdist(position[:, :targets], position[:, targets:])
    nearest = distance.masked_fill(~batch["present"][:, None], torch.inf).argmin(dim=-1)
    return torch.stack([views[rows] for views, rows in zip(batch["conditions"], nearest, strict=True)])


def psnr(pictures: Tensor, truth: Tensor) -> Tensor:
    """(B,) dB, the mean over an object's views; pictures (B, T, 3, H, W) in [-1, 1]."""
    error = ((pictures.float() - truth.float()) / 2).square().mean(dim=(2, 3, 4))
    return (-10 * error.clamp_min(1e-10).log10()).mean(dim=1)
