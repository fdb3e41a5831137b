"""What a run would need, counted without weights, data or GPU: parameters on the meta
device, FLOPs of one step on fake tensors."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from vstrain.config import rundir
from vstrain.config.schema import PlanConfig
from vstrain.engine import build
from vstrain.system import System

log = logging.getLogger("vstrain")
MOMENTS = 2  # Adam keeps two numbers a trained weight


def threads(config: PlanConfig) -> int:
    return 1


def run(config: PlanConfig, run_dir: Path) -> str:
    with torch.device("meta"):
        system = build.build_system(config)
        system.configure_model()
    facts = count(system, config) | flops(system, config, json.loads((run_dir / "item.json").read_text()))
    rundir.write_atomic(run_dir / "plan.json", json.dumps(facts, indent=2))
    log.info("%s", table(facts, config))
    return "finished"


def count(system: System, config: PlanConfig) -> dict[str, int]:
    """Parameters, and bytes that every rank holds under single and ddp: weights, gradients and Adam's moments in fp32."""
    parameters = list(system.parameters())
    trained = [parameter for group in system.param_groups() for parameter in group.params]
    weights = sum(p.numel() * p.element_size() for p in parameters) + sum(
        b.numel() * b.element_size() for b in system.buffers()
    )
    gradients = sum(p.numel() * p.element_size() for p in trained)
    return {
        "parameters": sum(p.numel() for p in parameters),
        "trained": sum(p.numel() for p in trained),
        "weights_bytes": weights,
        "gradients_bytes": gradients,
        "optimiser_bytes": MOMENTS * gradients,
        "checkpoint_bytes": weights + MOMENTS * gradients,
        "wire_bytes_per_step": 0
        if config.trainer.devices == 1
        else 2 * gradients * (config.trainer.devices - 1) // config.trainer.devices,
    }


def flops(system: System, config: PlanConfig, item: dict) -> dict[str, int]:
    """FLOPs of one optimiser step of all ranks, forward and backward, from one sample a batch scaled to data.batch_size."""
    keys = torch.arange(2)
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        system.to_empty(device="cpu")
        batch = {name: torch.empty((2, *shape), dtype=getattr(torch, dtype)) for name, (shape, dtype) in item.items()}
        system.objective(batch | {"key": keys, "weight": torch.ones(2)}).loss.backward()
    return {"flops_per_step": counter.get_total_flops() * config.data.batch_size // 2}


def table(facts: dict[str, int], config: PlanConfig) -> str:
    mib = {name: facts[f"{name}_bytes"] / 2**20 for name in ("weights", "gradients", "optimiser", "checkpoint")}
    held = mib["weights"] + mib["gradients"] + mib["optimiser"]
    return "\n".join(
        [
            f"{config.run.experiment}, scale {config.run.scale}, {config.trainer.devices} rank(s), "
            f"strategy {config.strategy.name}",
            f"  parameters           {facts['parameters']:>16,}  of which trained {facts['trained']:,}",
            f"  FLOPs a step         {facts['flops_per_step'] / 1e12:>16.3f}  TFLOP, "
            f"batch {config.data.batch_size} over all ranks, {config.trainer.max_steps:,} steps",
            f"  weights a rank       {mib['weights']:>16.1f}  MiB",
            f"  gradients a rank     {mib['gradients']:>16.1f}  MiB",
            f"  optimiser a rank     {mib['optimiser']:>16.1f}  MiB",
            f"  together             {held:>16.1f}  MiB, without activations",
            f"  checkpoint           {mib['checkpoint']:>16.1f}  MiB",
            f"  gradients on the wire{facts['wire_bytes_per_step'] / 2**20:>16.1f}  MiB sent a rank and step (ring all-reduce)",
        ]
    )
