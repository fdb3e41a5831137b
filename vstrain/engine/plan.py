"""`vstrain plan`: what a run would need, counted without weights, data or GPU, and which strategy is the cheapest that fits.

Single, ddp, fsdp2 and hsdp are counted on fake tensors (vstrain.engine.footprint), the sharded ones in a pretended process
group; what the optimiser adds, and ZeRO, is arithmetic on that."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import OffloadPolicy
from torch.testing._internal.distributed.fake_pg import FakeStore

from vstrain.config import rundir
from vstrain.config.verbs import Hardware, PlanConfig
from vstrain.engine import build, plan_text
from vstrain.engine.footprint import Footprint, footprint, helpers
from vstrain.engine.strategies import sharded
from vstrain.system import System

log = logging.getLogger("vstrain")
GIB = 2**30
MOMENTS = 2  # Adam keeps two numbers a trained weight, of its type
FP32 = 4  # bytes
SAVE_SECONDS = 120  # between the signal and the end where the launcher does not say: torchrun's agent (vstrain.agent)
SHARDED = ("fsdp2", "hsdp")
ORDER = ("single", "ddp", "zero1", "zero2", "hsdp", "fsdp2", "zero3")  # from few messages to many
LIVE = 1_000_000_000  # weights that ZeRO-3 keeps gathered at most


@dataclass(frozen=True)
class Candidate:
    """One strategy on this hardware. memory: bytes of a rank by category, at the peak. link, network: bytes that a rank
    sends in one step to its own node and to others."""

    name: str
    memory: dict[str, int]
    link: int
    network: int
    fits: bool

    @property
    def peak(self) -> int:
        return sum(self.memory.values())


def threads(config: PlanConfig) -> int:
    return 1


def run(config: PlanConfig, run_dir: Path) -> str:
    started = time.monotonic()
    data = json.loads((run_dir / "data.json").read_text())
    system = on_meta(config)
    facts = count(system, averaged(config)) | lengths(config, data)
    step = one_step(config, system, data["item"])
    options = candidates(config, facts, step)
    if chosen_name(config) in SHARDED or not any(option.fits for option in options if option.name == "ddp"):
        options = sorted(
            [*options, *sharded_candidates(config, data["item"])], key=lambda option: ORDER.index(option.name)
        )
    chosen = next(option for option in options if option.name == chosen_name(config))
    cheapest = next((option for option in options if option.fits), None)
    facts |= {
        "flops_per_step": step.flops * config.trainer.accumulate * config.world,
        "strategy": chosen.name,
        "memory": chosen.memory,
        "peak_bytes": chosen.peak,
        "fits": chosen.fits,
        "wire_bytes_per_step": chosen.link + chosen.network,
        "step_seconds": step_seconds(config, chosen, step.flops * config.trainer.accumulate),
        "cheapest": cheapest and cheapest.name,
        "strategies": [asdict(option) | {"peak_bytes": option.peak} for option in options],
        "checkpoint_seconds": facts["checkpoint_bytes"] / (config.hardware.write * 1e9),
        "lead_seconds": getattr(config.launcher, "lead", SAVE_SECONDS),
    }
    facts["verdict"] = plan_text.verdict(facts, config)
    facts["planned_seconds"] = time.monotonic() - started
    rundir.write_atomic(run_dir / "plan.json", json.dumps(facts, indent=2))
    log.info("%s", plan_text.table(facts, config))
    return "finished"


def one_step(config: PlanConfig, system: System, item: dict) -> Footprint:
    """Of one micro-batch of a rank."""
    return footprint(
        system,
        item,
        config.data.batch_size // (config.world * config.trainer.accumulate),
        precision=config.trainer.precision,
        keep_gradients=config.world > 1 or config.trainer.accumulate > 1,
        granularity=1 if config.hardware.name == "cpu" else 512,
    )


def on_meta(config: PlanConfig) -> System:
    """The system as it is trained, but for compilation: that changes neither what is kept nor the products."""
    config = config.model_copy(update={"trainer": config.trainer.model_copy(update={"compile": False})})
    with torch.device("meta"):
        system = build.build_system(config)
        system.configure_model()
    return system


def chosen_name(config: PlanConfig) -> str:
    if config.strategy.name != "auto":
        return config.strategy.name
    return "ddp" if config.world > 1 else "single"


def count(system: System, averaged: bool) -> dict[str, int]:
    """Parameters of the model and of its frozen helpers, and bytes of a whole checkpoint. averaged: it holds an EMA."""
    trained = [parameter for group in system.param_groups() for parameter in group.params]
    state, weights = sum(tensor.nbytes for tensor in system.state_dict().values()), sum(p.numel() for p in trained)
    return {
        "parameters": sum(parameter.numel() for parameter in system.parameters()),
        "trained": weights,
        "trained_bytes": sum(parameter.nbytes for parameter in trained),
        "helper_parameters": sum(parameter.numel() for net in helpers(system) for parameter in net.parameters()),
        "checkpoint_bytes": state
        + MOMENTS * sum(parameter.nbytes for parameter in trained)
        + FP32 * weights * averaged,
    }


def lengths(config: PlanConfig, data: dict) -> dict:
    """The run in steps, samples and epochs; shards of a node and of a rank (None: shards are not made yet)."""
    seen, shards = config.trainer.max_steps * config.data.batch_size, data["shards"]
    return {
        "steps": config.trainer.max_steps,
        "samples": seen,
        "data_samples": data["samples"],
        "epochs": seen / data["samples"],
        "shards": shards,
        "shards_per_node": shards and shards / config.launcher.nodes,
        "shards_per_rank": shards and shards / config.world,
    }


# ---- strategies ---------------------------------------------------------------------------------------------------


def candidates(config: PlanConfig, facts: dict, step: Footprint) -> list[Candidate]:
    """From the cheapest in messages to the dearest."""
    world, trained = config.world, facts["trained_bytes"]

    def candidate(name: str, memory: dict[str, int], message: int) -> Candidate:
        return sending(config, name, memory, ring(message, world))

    whole = after_step(config, step, trained, FP32 * facts["trained"])
    if world == 1:
        return [candidate("single", whole, 0)]
    reduced = candidate("ddp", whole, 2 * trained)
    return [reduced, *(candidate(f"zero{stage}", *zero(stage, config, facts["trained"], step)) for stage in (1, 2, 3))]


def sharded_candidates(config: PlanConfig, item: dict) -> list[Candidate]:
    """fsdp2 and, on several nodes or where it is chosen, hsdp: counted on rank 0 of a process group that is only pretended."""
    if config.world == 1:
        return []
    group = config.strategy.shard or config.trainer.devices
    names = ["fsdp2", *(["hsdp"] if config.strategy.name == "hsdp" or 1 < group < config.world else [])]
    return [sharded_candidate(config, name, group if name == "hsdp" else config.world, item) for name in names]


def sharded_candidate(config: PlanConfig, name: str, group: int, item: dict) -> Candidate:
    strategy = config.strategy.model_copy(update={"name": name, "shard": group if name == "hsdp" else None})
    dist.init_process_group("fake", rank=0, world_size=config.world, store=FakeStore())
    try:
        system = on_meta(config)
        mesh = sharded.mesh(strategy, "cpu", config.world)
        sharded.shard(system, mesh, sharded.mixed_precision(config.trainer.precision), OffloadPolicy())
        step = one_step(config, system, item)
        own = sum(p.to_local().numel() for group in system.param_groups() for p in group.params)
    finally:
        dist.destroy_process_group()
    memory = after_step(config, step, step.held["gradients"], FP32 * own)
    inside = ring(step.wire.get("all-gather", 0) + step.wire.get("reduce-scatter", 0), group)
    across = 2 * ring(step.wire.get("all-reduce", 0), config.world // group)
    if name == "hsdp" and group <= config.trainer.devices:
        link, network = inside, across
        return Candidate(
            name,
            memory,
            link * config.trainer.accumulate,
            network * config.trainer.accumulate,
            fits(sum(memory.values()), config.hardware),
        )
    return sending(config, name, memory, (inside + across) * config.trainer.accumulate)


def ring(message: int, ranks: int) -> int:
    """Bytes that each of `ranks` sends to gather, or reduce and scatter, a message: it keeps its own part."""
    return message * (ranks - 1) // ranks


def sending(config: PlanConfig, name: str, memory: dict[str, int], sent: int) -> Candidate:
    """A candidate whose ring goes through all ranks: where there are several nodes, the network is what it waits for."""
    inside = config.launcher.nodes == 1
    return Candidate(name, memory, sent * inside, sent * (not inside), fits(sum(memory.values()), config.hardware))


def after_step(config: PlanConfig, step: Footprint, trained: int, average: int) -> dict[str, int]:
    """Bytes by category at the larger of two peaks: in the backward pass, or after it, when activations are gone. There Adam
    needs as much as the `trained` bytes of weights again on a GPU where it is not fused but treats all weights at once; on the
    CPU, where it takes one tensor after the other, too little to matter. average: bytes of an EMA, whose update casts all
    weights that are not float32."""
    kept = {"optimiser": MOMENTS * trained, "average": average * averaged(config)}
    adam = 0 if config.hardware.name == "cpu" or config.optim.fused else trained
    casts = kept["average"] if config.trainer.precision == "bf16-true" else 0
    stepping = step.held | {"activations": 0, "temporary": max(adam, casts)} | kept
    return max(step.at_peak | kept, stepping, key=lambda memory: sum(memory.values()))


def averaged(config: PlanConfig) -> bool:
    return config.ema.decay is not None


def zero(stage: int, config: PlanConfig, trained: int, step: Footprint) -> tuple[dict[str, int], int]:
    """(memory, bytes of messages) of DeepSpeed's ZeRO for `trained` weights, all in fp32. Each rank has a second copy of its
    share of the weights and of the gradients, which the optimiser works on."""
    world, whole = config.world, FP32 * trained
    share = whole // world
    others = max(0, step.held["weights"] - whole)
    memory = step.at_peak | {
        "weights": others + (whole if stage < 3 else share + min(whole, FP32 * LIVE)),
        "gradients": (whole if stage == 1 else share) + share,
        "optimiser": MOMENTS * share + share,
        "average": share * averaged(config),
    }
    gathers = 2 * config.trainer.accumulate if stage == 3 else 1
    reductions = config.trainer.accumulate if stage > 1 else 1
    return memory, whole * (gathers + reductions)


# ---- hardware -----------------------------------------------------------------------------------------------------


def fits(peak: int, hardware: Hardware) -> bool:
    return peak * (1 + hardware.margin) <= (hardware.memory - hardware.reserve) * GIB


def step_seconds(config: PlanConfig, chosen: Candidate, flops: int) -> tuple[float, float]:
    """Shortest and longest: messages behind the computation at its best, or after the computation at its worst."""
    hardware = config.hardware
    rate = (hardware.bf16 if config.trainer.precision.startswith("bf16") else hardware.fp32) * 1e12
    slowest, fastest = (flops / (rate * share) for share in hardware.efficiency)
    messages = chosen.link / (hardware.link * 1e9) + chosen.network / (hardware.network * 1e9)
    return max(fastest, messages), slowest + messages
