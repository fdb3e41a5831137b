"""How a run is spread over processes: one file a family, `build` picks it by the name in conf/strategy.

A strategy only wraps; systems stay single-device code. FSDP2 and DeepSpeed get their files beside `data_parallel`.
"""

from __future__ import annotations

from vstrain.config.schema import Strategy


def build(config: Strategy, world: int):
    """A Lightning strategy for `world` processes."""
    from vstrain.engine.strategies import data_parallel

    name = config.name if config.name != "auto" else ("ddp" if world > 1 else "single")
    return data_parallel.single() if name == "single" else data_parallel.ddp()
