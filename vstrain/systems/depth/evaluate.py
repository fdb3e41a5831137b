"""The model against two baselines that see no picture, on held-out scenes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from vstrain.system import Report, System
from vstrain.systems.depth.config import Config
from vstrain.systems.depth.metrics import depth_scores, truth_disparity

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
    shift to each image; of a metric system none gets one, and baselines are of true disparity. A training set without
    labels of its own (a teacher in the loop) has no baselines."""
    metric = system.config.output == "metric"
    maps = baselines(train_batches, metric)
    if metric:
        maps = {name: 1 / x.clamp_min(1 / system.config.depth_cap) for name, x in maps.items()}
    names, samples = ["model", *maps], 0.0
    total = torch.zeros(len(names), 2, dtype=torch.float64)
    for batch in val_batches:
        batch = {name: x.to(system.device) for name, x in batch.items()}
        weight = batch["weight"].double()
        for i, name in enumerate(names):
            found = system(batch["image"], batch.get("focal")).float() if name == "model" else maps[name]
            scores = depth_scores(*system.fitted(found.to(system.device).expand_as(batch["disparity"]), batch))
            for j, score in enumerate((scores["abs_rel"], scores["delta1"])):
                total[i, j] += (score * weight).sum().item()
        samples += weight.sum().item()
    metrics = {}
    for name, (abs_rel, delta1) in zip(names, (total / samples).tolist(), strict=True):
        metrics |= {f"{name}/abs_rel": abs_rel, f"{name}/delta1": delta1}
    return Report(metrics, table(metrics, round(samples), system.config))


def baselines(batches: Iterable[Batch], absolute: bool) -> dict[str, Tensor]:
    """mean_map and plane, each float64 (H, W), of the disparity of the valid pixels, normalised or true (1 / metre). A place
    that is valid in no sample takes the plane's value. Nothing where no pixel is valid."""
    total = count = normal = moment = 0
    for batch in batches:
        valid = batch["valid"].double() * batch["weight"].double()[:, None, None]
        maps = batch["disparity"].double()
        if absolute:
            maps, _ = truth_disparity(batch["disparity"], batch["span"], batch["valid"], 1.0)
        disparity = (maps * valid).sum(0)
        valid = valid.sum(0)
        total, count = total + disparity, count + valid
    if not (count > 0).any():
        return {}
    height, width = total.shape
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    design = torch.stack((torch.ones_like(x), x, y), dim=-1).double().to(total.device)
    normal = torch.einsum("hwi,hwj,hw->ij", design, design, count)
    moment = torch.einsum("hwi,hw->i", design, total)
    plane = design @ torch.linalg.solve(normal, moment)
    return {"mean_map": torch.where(count > 0, total / count.clamp_min(1), plane), "plane": plane}


def table(metrics: dict[str, float], samples: int, config: Config) -> str:
    lines = [f"{f'{samples} held-out images':<42}{'AbsRel':>8}{'delta1':>8}"]
    names = [name for name in NAMES if f"{name}/abs_rel" in metrics]
    for name in names:
        lines.append(f"{NAMES[name]:<42}{metrics[f'{name}/abs_rel']:>8.3f}{metrics[f'{name}/delta1']:>8.3f}")
    if len(names) > 1:
        best = min(metrics[f"{name}/abs_rel"] for name in names if name != "model")
        lines.append(f"the better baseline's AbsRel is {best / metrics['model/abs_rel']:.1f} times the model's")
    fit = "as predicted, no fit" if config.output == "metric" else "fitted by scale and shift per image"
    lines.append(f"(disparity {fit}, floored at 1/{config.depth_cap:g} m; scored as depth)")
    return "\n".join(lines)
