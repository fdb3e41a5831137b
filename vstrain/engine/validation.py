"""One pass over the validation samples: a weighted mean of every metric, each sample counted once on any number of ranks."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import torch

from vstrain.engine.guards import sum_over_ranks
from vstrain.system import System


@contextmanager
def inference(system: System):
    """Evaluation mode without gradients; every submodule's mode is put back afterwards."""
    modes = {module: module.training for module in system.modules()}
    system.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def to_device(batch: dict, device: torch.device) -> dict:
    return {
        name: value.to(device, non_blocking=True) if torch.is_tensor(value) else value for name, value in batch.items()
    }


def validate(
    system: System, batches, autocast=None, pictures: bool = False, call=None
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """(metric -> mean over all samples of all ranks, pictures of the first batch). `autocast`: a factory of contexts.
    `call(method, batch)`: how a method of the system is called (vstrain.engine.strategies.caller)."""
    call = call or (lambda method, batch: getattr(system, method)(batch))
    sums: dict[str, torch.Tensor] = {}
    weight = torch.zeros((), dtype=torch.float64)
    drawn: dict[str, np.ndarray] = {}
    with inference(system):
        for number, batch in enumerate(batches):
            batch = to_device(batch, system.device)
            with autocast() if autocast else torch.no_grad():
                if pictures and number == 0:
                    drawn = call("pictures", batch)
                metrics = call("evaluate", batch)
            share = batch["weight"].double()
            weight += share.sum().cpu()
            for name, values in metrics.items():
                sums[name] = sums.get(name, 0) + torch.where(share > 0, values.double(), 0.0).mul(share).sum().cpu()
    names = sorted(sums)
    vector = torch.stack([weight, *(sums[name] for name in names)]).to(
        system.device if system.device.type == "cuda" else "cpu"
    )
    vector = sum_over_ranks(vector).cpu()
    return {name: float(total / vector[0]) for name, total in zip(names, vector[1:], strict=True)}, drawn
