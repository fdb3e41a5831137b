"""The plan as a person reads it."""

from __future__ import annotations

from vstrain.config.verbs import PlanConfig

MIB, GIB = 2**20, 2**30
ROWS = {
    "weights": "weights",
    "helpers": "frozen helpers",
    "gradients": "gradients",
    "optimiser": "optimiser",
    "average": "moving average",
    "inputs": "batch",
    "activations": "kept for backward",
    "temporary": "temporary",
}


def table(facts: dict, config: PlanConfig) -> str:
    return "\n".join([*head(facts, config), *memory(facts, config), *step(facts, config), *whole(facts, config)])


def head(facts: dict, config: PlanConfig) -> list[str]:
    ranks = config.world
    parts = ranks * config.trainer.accumulate
    frozen = f", helpers {facts['helper_parameters']:,}" if facts["helper_parameters"] else ""
    return [
        f"{config.run.experiment}, scale {config.run.scale}: {ranks} rank(s) on {config.launcher.nodes} node(s), strategy "
        f"{facts['strategy']}, {config.trainer.precision}, hardware {config.hardware.name}",
        f"  batch {config.data.batch_size} = {ranks} rank(s) x {config.trainer.accumulate} micro-batch(es) x "
        f"{config.data.batch_size // parts} sample(s)",
        f"  parameters {facts['parameters']:,}, of which trained {facts['trained']:,}{frozen}",
    ]


def memory(facts: dict, config: PlanConfig) -> list[str]:
    hardware = config.hardware
    lines = [f"  {text:<19}{facts['memory'][name] / MIB:>12,.1f} MiB" for name, text in ROWS.items()]
    return [
        "memory of a rank at its peak",
        *lines,
        f"  {'peak':<19}{facts['peak_bytes'] / MIB:>12,.1f} MiB   {facts['verdict']}",
        f"strategies on {hardware.name}, cheapest in messages first ({hardware.memory:g} GiB, {hardware.reserve:g} GiB of them "
        f"reserved, {hardware.margin:.0%} margin on the peak)",
        *(
            f"  {option['name']:<8}{option['peak_bytes'] / GIB:>9.2f} GiB {(option['link'] + option['network']) / MIB:>12,.0f}"
            f" MiB sent a step   {'fits' if option['fits'] else 'does not fit'}"
            f"{'  <- cheapest that fits' * (option['name'] == facts['cheapest'])}"
            for option in facts["strategies"]
        ),
        *([] if facts["cheapest"] else [f"  none of them fits: {advice(config)}"]),
    ]


def verdict(facts: dict, config: PlanConfig) -> str:
    """One sentence: whether the chosen strategy fits, and what to do if not."""
    hardware = config.hardware
    need = facts["peak_bytes"] * (1 + hardware.margin) / GIB + hardware.reserve
    if facts["fits"]:
        return f"fits: needs {need:.1f} of {hardware.memory:g} GiB with margin and reserve"
    remedy = f"use strategy={facts['cheapest']}" if facts["cheapest"] else advice(config)
    return f"does not fit: needs {need:.1f} of {hardware.memory:g} GiB with margin and reserve; {remedy}"


def advice(config: PlanConfig) -> str:
    ranks = config.world
    samples = config.data.batch_size // (ranks * config.trainer.accumulate)
    if samples > 1:
        return f"cut the {samples} samples of a micro-batch by a larger trainer.accumulate"
    return "use more ranks, smaller inputs or hardware with more memory"


def step(facts: dict, config: PlanConfig) -> list[str]:
    low, high = facts["step_seconds"]
    ranks = config.world
    share = "-".join(f"{value:.0%}" for value in config.hardware.efficiency)
    return [
        "a step",
        f"  FLOPs              {facts['flops_per_step'] / 1e12 / ranks:>12,.3f} TFLOP a rank, "
        f"{facts['flops_per_step'] / 1e12:,.3f} over all",
        f"  sent               {facts['wire_bytes_per_step'] / MIB:>12,.1f} MiB a rank",
        f"  time               {span(low, high)}, {config.data.batch_size / high:,.1f}-{config.data.batch_size / low:,.1f} "
        f"samples/s (if {share} of the FLOP rate is reached and data keeps up)",
    ]


def whole(facts: dict, config: PlanConfig) -> list[str]:
    low, high = (facts["steps"] * seconds for seconds in facts["step_seconds"])
    shards = (
        f"{facts['shards']} shards: {facts['shards_per_node']:,.1f} a node, {facts['shards_per_rank']:,.1f} a rank"
        if facts["shards"]
        else "shards are not made yet"
    )
    wait, lead = facts["checkpoint_seconds"], facts["lead_seconds"]
    late = "" if wait <= lead else ": TOO LATE; a larger lead time or faster storage is needed"
    return [
        "the run",
        f"  {facts['steps']:,} steps, {facts['samples']:,} samples, {facts['epochs']:,.2f} epochs of "
        f"{facts['data_samples']:,}; {shards}",
        f"  {span(low, high)}",
        f"  checkpoint {facts['checkpoint_bytes'] / MIB:,.1f} MiB, {wait:,.1f} s to write at {config.hardware.write:g} GB/s; "
        f"{lead:g} s are left after a signal{late}",
        f"planned in {facts['planned_seconds']:.1f} s",
    ]


def span(low: float, high: float) -> str:
    """A range of seconds in the unit that suits it."""
    unit, size = next(
        ((unit, size) for unit, size in (("days", 86400), ("h", 3600), ("min", 60), ("s", 1)) if high >= 2 * size),
        ("ms", 1e-3),
    )
    return (
        "-".join(f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in (low / size, high / size))
        + f" {unit}"
    )
