"""The embedded data sets: shards of the procedural world, built before a run when they are absent."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pydantic import ValidationError

from vstrain.config.problems import Problem
from vstrain.config.schema import Source, Split, TrainConfig, TrainSplit
from vstrain.config.validate import problem

EMBEDDED = "embedded:"  # marks an address inside the embedded data set


def check(config: TrainConfig, origin) -> list[Problem]:
    """Problems in data.procedural, whose keys depend on the system's kind of data."""
    from vstrain.data.kinds import KINDS

    kind = config.system.data_kind
    if kind not in KINDS:
        return [
            Problem(
                "system.data_kind",
                f"no kind {kind!r}; expected one of {', '.join(KINDS)}",
                origin("system.data_kind"),
            )
        ]
    if config.data.source != "procedural":
        return []
    from data_pipelines.procedural.config import CONFIGS

    try:
        CONFIGS[kind].model_validate(config.data.procedural)
    except ValidationError as error:
        return [problem(detail, CONFIGS[kind], origin, "data.procedural.") for detail in error.errors()]
    return []


def prepare(config: TrainConfig) -> tuple[TrainConfig, dict[str, str]]:
    """The configuration with its shard addresses filled in, and the fingerprints of its indices. Builds what is missing."""
    from vstrain.data.index import Index
    from vstrain.data.storage import expand

    data = config.data
    sources, val = data.train.all_sources(), data.val.urls
    if data.source == "procedural":
        sources = [source if source.urls else Source(urls=[EMBEDDED + "train-*.tar"], weight=1.0) for source in sources]
        val = val or [EMBEDDED + "val-*.tar"]
        if any(url.startswith(EMBEDDED) for urls in (val, *(source.urls for source in sources)) for url in urls):
            folder = build(config)
            sources = [source.model_copy(update={"urls": _placed(source.urls, folder)}) for source in sources]
            val = _placed(val, folder)
    with progress_bar("indexing") as advance:

        def fingerprint(name: str, urls: list[str]) -> str:
            return Index.open(urls, lambda done, total: advance(name, done, total)).fingerprint

        sources = [source.model_copy(update={"urls": expand(source.urls)}) for source in sources]
        val = expand(val)
        prints = {
            "train": "-".join(fingerprint("train", source.urls) for source in sources),
            "val": fingerprint("val", val),
        }
    train = TrainSplit(sources=sources) if data.train.sources else TrainSplit(urls=sources[0].urls)
    data = data.model_copy(update={"train": train, "val": Split(urls=val)})
    return config.model_copy(update={"data": data}), prints


def _placed(urls: list[str], folder: Path) -> list[str]:
    return [str(folder / url.removeprefix(EMBEDDED)) if url.startswith(EMBEDDED) else url for url in urls]


def build(config: TrainConfig) -> Path:
    """The folder of the embedded data set of this configuration; rendered with a progress bar if it is not there yet."""
    from data_pipelines.procedural import build as world

    kind = config.system.data_kind
    wanted, folder = _world(config)
    if world.complete(folder):
        return folder
    with progress_bar(f"rendering {kind} data") as advance:
        world.build(kind, wanted, folder, processes=len(os.sched_getaffinity(0)), progress=advance)
    return folder


def one_sample(config: TrainConfig) -> dict:
    """The first training sample of the embedded data set, rendered in memory."""
    from data_pipelines.procedural import build as world
    from data_pipelines.procedural.config import CONFIGS

    kind = config.system.data_kind
    return world.make(kind, CONFIGS[kind].model_validate(config.data.procedural), "train", 0)


def sizes(config: TrainConfig) -> tuple[int, int | None]:
    """(training samples, their shards or None before they are made) of the embedded data set."""
    from data_pipelines.procedural import build as world

    wanted, folder = _world(config)
    return wanted.samples, len(list(folder.glob("train-*.tar"))) if world.complete(folder) else None


def _world(config: TrainConfig) -> tuple:
    """What the embedded data set of a configuration shows, and its folder."""
    from data_pipelines.procedural import build as world
    from data_pipelines.procedural.config import CONFIGS

    kind = config.system.data_kind
    wanted = CONFIGS[kind].model_validate(config.data.procedural)
    return wanted, Path(config.data.root).absolute() / "procedural" / f"{kind}-{world.config_digest(kind, wanted)}"


class progress_bar:
    """`with progress_bar(text) as advance: advance(stage, done, total)`: a bar at a terminal, a line for each tenth elsewhere."""

    def __init__(self, text: str):
        self.text = text
        self.said: dict[str, int] = {}

    def __enter__(self):
        self.bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.bar.start()
            self.tasks = {}
        return self.advance

    def advance(self, stage: str, done: int, total: int) -> None:
        if self.bar is not None:
            if stage not in self.tasks:
                self.tasks[stage] = self.bar.add_task(f"{self.text}: {stage}", total=total)
            self.bar.update(self.tasks[stage], completed=done)
        elif total and done * 10 // total > self.said.get(stage, -1):
            self.said[stage] = done * 10 // total
            print(f"{self.text}: {stage} {done}/{total}", file=sys.stderr, flush=True)

    def __exit__(self, *error) -> None:
        if self.bar is not None:
            self.bar.stop()
