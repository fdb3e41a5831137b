"""Renders a kind's splits and writes them as shards, in the tasks of a production: it can be stopped and goes on.

Sample i of a split depends on (config, split, i) alone, so the shards are the same bytes for any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import xxhash

from data_pipelines.executors import Execution
from data_pipelines.procedural.config import World, splits
from data_pipelines.production.folder import SUMMARY
from data_pipelines.production.plan import Made, Plan
from data_pipelines.production.produce import produce

VERSION = 5  # raise it when the same config would render other pictures
SHARD_BYTES, JPEG_QUALITY = 400_000_000, 92

Progress = Callable[[str, int, int], None]  # (split, samples done, samples in all)


def config_digest(kind: str, config: World) -> str:
    """Twelve hex digits that change with the config or the generator: the name of a data set's folder."""
    return xxhash.xxh3_64_hexdigest(f"{VERSION}/{kind}/{config.model_dump_json()}".encode())[:12]


def make(kind: str, config: World, split: str, index: int) -> dict:
    """Sample `index` of `split` of `kind`, as vstrain.data.kinds describes it."""
    return import_module(f"data_pipelines.procedural.{kind}").make(config, split, index)


def complete(directory: Path) -> bool:
    return (directory / SUMMARY).is_file()


def build(kind: str, config: World, directory: Path, processes: int, progress: Progress) -> None:
    """Write every split of the config into `directory`. Several processes may do this at once: they share the work."""
    plan = Plan(
        pipeline="procedural",
        kind=kind,
        config=config.model_dump() | {"version": VERSION},
        inputs={split: [(split, index) for index in range(count)] for split, count in splits(config).items()},
        shard_samples=None,
        shard_bytes=SHARD_BYTES,
        jpeg_quality=JPEG_QUALITY,
    )
    execution = Execution(executor="pool", processes=processes, part="all")
    produce(plan, partial(_made, kind, config), directory, execution, False, progress)


def _made(kind: str, config: World, place: tuple[str, int]) -> Made:
    return Made(make(kind, config, *place))
