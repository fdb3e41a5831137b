"""Does the model follow the points? Its edits against the true frames, beside what no points would give."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from vstrain.system import Report, System
from vstrain.systems.drag.sample import edit

NAMES = {
    "model": "edited as the points say",
    "without_points": "edited by the same model without points",
    "unchanged": "source left as it is",
}


@torch.no_grad()
def report(system: System, train_batches: Iterable, val_batches: Iterable[dict[str, Tensor]]) -> Report:
    """Mean PSNR (dB) inside the mask against the true frame, and how many pixels outside of it changed."""
    total, samples, changed = torch.zeros(len(NAMES), dtype=torch.float64), 0.0, 0
    for batch in val_batches:
        batch = {name: x.to(system.device) for name, x in batch.items()}
        for i, edited in enumerate(_edits(system, batch)):
            total[i] += (psnr_inside(edited, batch["target"], batch["mask"]) * batch["weight"].double()).sum().cpu()
            changed += int((edited != batch["source"])[~batch["mask"]].sum())
        samples += batch["weight"].sum().item()
    metrics = {f"{name}/psnr_inside": value for name, value in zip(NAMES, (total / samples).tolist(), strict=True)}
    return Report(metrics | {"outside_changed": changed}, _table(metrics, round(samples), changed))


def _edits(system: System, batch: dict[str, Tensor]) -> list[Tensor]:
    """One uint8 (B, H, W, 3) for each of NAMES."""
    given = (batch["source"], batch["mask"], batch["maps"], [0])
    sampling = system.config.sampling
    followed = edit(system.model, system.schedule, sampling, *given)
    free = edit(system.model, system.schedule, sampling, *given, with_points=False)
    return [followed[:, 0], free[:, 0], batch["source"]]


def psnr_inside(edited: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) twice and mask bool (B, H, W) -> PSNR (B,) float64, dB, of the masked pixels, at most 60."""
    error = (edited.double() - target.double()).square().mean(dim=-1) * mask
    mean = error.sum(dim=(1, 2)) / mask.sum(dim=(1, 2)).clamp_min(1)
    return (10 * torch.log10(255**2 / mean.clamp_min(1e-12))).clamp_max(60)


def _table(metrics: dict[str, float], samples: int, changed: int) -> str:
    lines = [f"{f'{samples} held-out pairs':<42}{'PSNR inside the mask':>22}"]
    lines += [f"{label:<42}{metrics[f'{name}/psnr_inside']:>19.1f} dB" for name, label in NAMES.items()]
    return "\n".join([*lines, f"values that changed outside of the mask: {changed}"])
