"""`vstrain label`: a trained system labels a corpus of any size, in the tasks of a production: one task, one shard.

A killed job goes on from its last finished shard; jobs on any number of processes and nodes share the work; the shards are
the same bytes whoever made them, because the pictures of a task are always cut into the same batches. The part `label` of
the system says how a picture is prepared, labelled and written.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import xxhash

from data_pipelines.executors import Execution, part_of
from data_pipelines.production.plan import Made, Plan, Rejected
from data_pipelines.production.produce import produce
from vstrain.config import checkpoints
from vstrain.config.problems import InputError
from vstrain.config.verbs import LabelConfig
from vstrain.data import codecs, loader
from vstrain.data.index import Index
from vstrain.data.kinds import SampleError
from vstrain.data.reader import DamagedSample, Reader
from vstrain.data.storage import Storage
from vstrain.engine import build
from vstrain.engine.console import RateProgress
from vstrain.engine.restore import restore, threads

log = logging.getLogger("vstrain")
__all__ = ["run", "threads"]

PICTURES = ("jpg", "png", "webp")
WINDOW = 8  # batches: among so many pictures those of one size are brought together
SPLIT = "labels"


def run(config: LabelConfig, run_dir: Path) -> str:
    system, trained, path = restore(config)
    part = build.part(trained.system, "label")
    labeller = part.Labeller(system, config.size, config.flip, config.precision)
    files = checkpoints.weight_files(path, config.averaged)
    teacher = {"teacher": "-".join(checkpoints.checksum(file)["xxh3"] for file in files)}
    index = loader.open_index(config.urls, "urls")
    count = min(config.limit or len(index), len(index))
    check_keys(index, count)
    plan = Plan(
        pipeline="label",
        kind=trained.system.data_kind,
        config=teacher | labeller.facts | {"pictures": index.fingerprint, "batch_size": config.batch_size},
        inputs={SPLIT: range(count)},
        shard_samples=config.shard_samples,
        shard_bytes=2**62,  # one task, one shard
        jpeg_quality=0,  # pictures stay the bytes they are
        left_out=len(index) - count,
    )
    labels = Labels(index, labeller, teacher, config.batch_size, config.shard_samples, config.threads)
    if int(os.environ.get("RANK", 0)) == 0:
        log.info("%s", forecast(labels, count, Path(config.output)))
    execution = Execution(executor="in_process", processes=None, part=place(config.part))
    with RateProgress("images") as progress:
        labels.told = progress.tick
        outcome = produce(
            plan,
            lambda n: labels(n, part.confidence),
            Path(config.output),
            execution,
            config.overwrite,
            progress.advance,
            lambda total: {"confidence": total.notes},
        )
    if outcome.summary is None:
        log.info("%s: %d of %d shards are done, other jobs have the rest", config.output, outcome.done, outcome.tasks)
    else:
        kept, rejected = sum(outcome.summary["kept"].values()), sum(outcome.summary["rejected"].values())
        log.info("%s: %d labelled, %d rejected, %d shards", config.output, kept, rejected, outcome.summary["shards"])
    return "finished"


def place(part: str) -> str:
    """This process's part: that of the job (a SLURM array task, or given), shared out among its own processes."""
    ranks = {name: os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))}
    job = part_of(part, {name: value for name, value in os.environ.items() if name not in ranks})
    rank, world = int(ranks["RANK"]), int(ranks["WORLD_SIZE"])
    return f"{job.number * world + rank + 1}/{job.count * world}"


def check_keys(index: Index, count: int) -> None:
    """Keys name labels: refuse two pictures of one key before the work, not after it."""
    keys = (xxhash.xxh3_64_intdigest(index.key(n).encode("utf-8", "surrogateescape")) for n in range(count))
    hashes = np.fromiter(keys, np.uint64, count)
    order = np.argsort(hashes, kind="stable")
    if len(twins := np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])):
        one, other = sorted(int(order[twins[0] + k]) for k in (0, 1))
        shards = " and ".join(index.shards[int(index.shard[n])] for n in (one, other))
        raise InputError(
            f"urls: two pictures have the key {index.key(one)}, in {shards}; label the data sets into folders of their own"
        )


def forecast(labels: Labels, count: int, out: Path) -> str:
    """What the work will need, from the sizes of all pictures and the labels of the first few. Warns of a disk too small."""
    index, label_size = labels.index, labels.labeller.size
    sizes, times = np.unique(np.stack([index.height[:count], index.width[:count]]), axis=1, return_counts=True)
    pixels = [int(np.prod(label_size(*size))) if all(size) else 0 for size in sizes.T.tolist()]
    raw = 2 * sum(area * int(n) for area, n in zip(pixels, times, strict=True))
    began, first = time.monotonic(), labels.pilot(count)
    pace = len(first) / (time.monotonic() - began)
    unpacked = 2 * sum(np.prod(made["json"]["input_size"]) for made in first)
    packed = raw * sum(len(made["depth.pco"]) for made in first) / max(1, unpacked)
    pictures = sum(len(made[name]) for made in first for name in PICTURES if name in made) / max(1, len(first)) * count
    need = packed + pictures
    lines = [
        f"{count:,} pictures; storage about {_bytes(need)}: labels {_bytes(packed)} (float16, {_bytes(raw)} unpacked), "
        f"pictures {_bytes(pictures)}",
        f"about {pace:.2f} images/s a process, {_time(count / max(pace, 1e-9))} on one",
    ]
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if need > (free := shutil.disk_usage(there).free):
        lines.append(f"WARNING: {out} has {_bytes(free)} free; give another output=, or make room before it is full")
    return "\n".join(lines)


class Labels:
    """labels(n, confidence): sample n of the index with its label, or why it has none. Meant to be asked in order.

    A task's pictures are read in windows; within a window those of one size make batches. Threads decode the next window
    and pack the labels of this one while the device works."""

    def __init__(self, index: Index, labeller, teacher: dict, batch: int, task: int, workers: int | None):
        self.index, self.labeller, self.teacher = index, labeller, teacher
        self.told: Callable[[int], None] = lambda pictures: (
            None
        )  # called with the pictures of every batch that is labelled
        self.batch, self.task = batch, task
        self.reader = Reader(index, Storage())
        self.pool = ThreadPoolExecutor(workers or len(os.sched_getaffinity(0)))
        self._current, self._results = -1, {}

    def __call__(self, n: int, confidence) -> Made | Rejected:
        if n // self.task != self._current:
            self._current, self._results = n // self.task, {}
            first = self._current * self.task
            self._windows = self.windows(range(first, min(first + self.task, len(self.index))))
        while n not in self._results:
            self._results |= next(self._windows)
        made = self._results.pop(n)
        if isinstance(made, Rejected):
            return made
        try:
            sample = made.result()
        except SampleError as error:
            return Rejected(self.index.key(n), "label not usable", str(error))
        note = confidence(sample["json"])
        return Made(sample, (note,) if note else ())

    def pilot(self, count: int) -> list[dict]:
        """The samples of the first batch."""
        window = next(self.windows(range(min(self.batch, count))))
        return [made.result() for made in window.values() if isinstance(made, Future) and made.exception() is None]

    def windows(self, ids: range) -> Iterator[dict[int, Rejected | Future]]:
        """id -> the Future of its sample, or its rejection; a window of consecutive ids at a time."""
        ahead = deque()
        for window in _cut(ids, WINDOW * self.batch):
            ahead.append(self._read(window))
            if len(ahead) == 2:
                yield self._labelled(ahead.popleft())
        while ahead:
            yield self._labelled(ahead.popleft())

    def _read(self, ids: tuple[int, ...]) -> dict[int, Rejected | tuple[dict, dict, Future]]:
        """id -> (picture member, facts, the Future of the network's input)."""
        self.reader.fetch_ahead(ids)
        found = {}
        for n in ids:
            sample = self.reader.read(n)
            try:
                name = next((name for name in PICTURES if name in sample), None)
                if name is None:
                    raise DamagedSample(sample.shard, sample.key, "has no picture")
                facts = sample.get("json", {})
                data = sample.raw(name)
            except DamagedSample as damage:
                found[n] = Rejected(f"{damage.shard}: {damage.key}", "picture not usable", damage.reason)
                continue
            found[n] = {name: data}, facts, self.pool.submit(self._input, name, data)
        return found

    def _input(self, name: str, data: bytes) -> np.ndarray:
        return self.labeller.input(codecs.decode(name, data))

    def _labelled(self, window: dict) -> dict[int, Rejected | Future]:
        done, sizes = {}, {}
        for n, found in window.items():
            if isinstance(found, Rejected):
                done[n] = found
                continue
            try:
                sizes.setdefault(found[2].result().shape, []).append(n)
            except Exception as error:  # decoders raise many types
                place = f"{self.index.shards[int(self.index.shard[n])]}: {self.index.key(n)}"
                done[n] = Rejected(place, "picture not usable", f"the picture does not decode ({error})")
        for _, ids in sorted(sizes.items()):
            for batch in _cut(ids, self.batch):
                self.told(len(batch))
                labels = self.labeller.label(np.stack([window[n][2].result() for n in batch]))
                for n, (disparity, error) in zip(batch, labels, strict=True):
                    picture, facts, _ = window[n]
                    key = self.index.key(n)
                    done[n] = self.pool.submit(
                        self.labeller.sample, key, picture, facts, disparity, error, self.teacher
                    )
        return done


def _cut(ids: Sequence[int], size: int) -> list[Sequence[int]]:
    return [ids[start : start + size] for start in range(0, len(ids), size)]


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    return ""


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"
