"""How a run is spread over processes: one file a family, `build` picks it by the name in conf/strategy.

A strategy only wraps; systems stay single-device code. docs/strategies.md says when to use which.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lightning.pytorch import Trainer

from vstrain.config.schema import TrainConfig


def build(config: TrainConfig, world: int):
    """A Lightning strategy for `world` processes. Only the chosen family is imported: DeepSpeed alone takes seconds."""
    name = config.strategy.name if config.strategy.name != "auto" else ("ddp" if world > 1 else "single")
    if name in ("fsdp2", "hsdp"):
        from vstrain.engine.strategies import sharded

        return sharded.Sharded(config, world)
    if name.startswith("zero"):
        from vstrain.engine.strategies import zero

        return zero.Zero(config)
    from vstrain.engine.strategies import data_parallel

    return data_parallel.single() if name == "single" else data_parallel.ddp()


def caller(trainer: Trainer) -> Callable:
    """`call(method, *arguments)`: a method of the system that runs its networks, called in the way the strategy needs."""
    return getattr(trainer.strategy, "call", partial(_call, trainer.lightning_module))


def _call(system, method: str, *arguments):
    return getattr(system, method)(*arguments)


def is_sharded(trainer: Trainer) -> bool:
    """Whether no rank has a whole copy of the weights, so that all of them must take part whenever a network runs."""
    return getattr(trainer.strategy, "sharded", False)


def is_spread(trainer: Trainer) -> bool:
    """Whether the state that a checkpoint holds is in parts on all ranks; else rank 0 has it whole."""
    return getattr(trainer.strategy, "spread", False)
