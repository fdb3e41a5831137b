"""The model against two baselines that see no picture, on held-out scenes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from vstrain.system import Report, System
from vstrain.systems.depth.metrics import depth_scores, fit_disparity

Batch = dict[str, Tensor]
NAMES = {
    "model": "model",
    "mean_map": "mean disparity map of the training set",
    "plane": "best plane of the training set",
}


@torch.no_grad()
def report(system: System, train_batches: Iterable[Batch], val_batches: Iterable[Batch]) -> Report:
    """AbsRel and delta1 over `val_batches`: of the model, of the mean disparity map of `train_batches`, and
    of the one plane a + b x + c y that fits their disparity best. All three get the same fit of scale and
    shift to each image."""
    mean_map, plane = baselines(train_batches)
    names, total, samples = list(NAMES), torch.zeros(len(NAMES), 2, dtype=torch.float64), 0.0
    for batch in val_batches:
        batch = {name: x.to(system.device) for name, x in batch.items()}
        truth, weight = (batch["disparity"], batch["span"], batch["valid"]), batch["weight"].double()
        predictions = {"model": system(batch["image"]).float(), "mean_map": mean_map, "plane": plane}
        for i, name in enumerate(names):
            maps = predictions[name].to(system.device).expand_as(batch["disparity"])
            scores = depth_scores(*fit_disparity(maps, *truth, system.config.depth_cap))
            for j, score in enumerate((scores["abs_rel"], scores["delta1"])):
                total[i, j] += (score * weight).sum().item()
        samples += weight.sum().item()
    metrics = {}
    for name, (abs_rel, delta1) in zip(names, (total / samples).tolist(), strict=True):
        metrics |= {f"{name}/abs_rel": abs_rel, f"{name}/delta1": delta1}
    return Report(metrics, table(metrics, round(samples), system.config.depth_cap))


def baselines(batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """(mean map, plane), each float64 (H, W), of the normalised disparity of the valid pixels. A place that
    is valid in no sample takes the plane's value."""
    total = count = normal = moment = 0
    for batch in batches:
        valid = batch["valid"].double() * batch["weight"].double()[:, None, None]
        disparity = (batch["disparity"].double() * valid).sum(0)
        valid = valid.sum(0)
        total, count = total + disparity, count + valid
    height, width = total.shape
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    design = torch.stack((torch.ones_like(x), x, y), dim=-1).double().to(total.device)
    normal = torch.einsum("hwi,hwj,hw->ij", design, design, count)
    moment = torch.einsum("hwi,hw->i", design, total)
    plane = design @ torch.linalg.solve(normal, moment)
    return torch.where(count > 0, total / count.clamp_min(1), plane), plane


def table(metrics: dict[str, float], samples: int, cap: float) -> str:
    lines = [f"{f'{samples} held-out images':<42}{'AbsRel':>8}{'delta1':>8}"]
    for name, label in NAMES.items():
        lines.append(f"{label:<42}{metrics[f'{name}/abs_rel']:>8.3f}{metrics[f'{name}/delta1']:>8.3f}")
    best = min(metrics[f"{name}/abs_rel"] for name in NAMES if name != "model")
    lines.append(f"the better baseline's AbsRel is {best / metrics['model/abs_rel']:.1f} times the model's")
    lines.append(f"(disparity fitted by scale and shift per image, floored at 1/{cap:g} m; scored as depth)")
    return "\n".join(lines)
