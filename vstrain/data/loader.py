"""From shards to batches: position -> sample id -> decoded sample -> the system's `prepare` -> stacked tensors.

The state of training data is one number, the samples seen; `train_batches(start_step=...)` begins there.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vstrain.data.index import DataError, Index, expand
from vstrain.data.keyed import draw_key, rng
from vstrain.data.kinds import SampleError
from vstrain.data.order import Order
from vstrain.data.reader import DamagedSample, Reader

Prepare = Callable[[dict, np.random.Generator], dict]  # a system's `prepare` with its config and mode filled in


@dataclass(frozen=True)
class Share:
    """This process among those that train together."""

    rank: int = 0
    world: int = 1


class Quarantine:
    """The ledger of damaged samples of a run: one JSON line each in `path`; more than `limit` of them end the run."""

    def __init__(self, path: Path | None, limit: int):
        self.path, self.limit = path, limit
        self.seen: set[tuple[str, str]] = set()

    def add(self, damage: DamagedSample) -> None:
        if (damage.shard, damage.key) in self.seen:
            return
        self.seen.add((damage.shard, damage.key))
        if self.path is not None:
            line = json.dumps({"shard": damage.shard, "key": damage.key, "reason": damage.reason})
            with self.path.open("a") as file:
                file.write(line + "\n")
        if len(self.seen) > self.limit:
            raise DataError(
                f"{damage.shard}: {len(self.seen)} damaged samples, more than the {self.limit} allowed; see {self.path}"
            )


class Positions(Dataset):
    """Global position -> training item. A damaged sample is noted and replaced by the one at a position drawn from the
    same key, on every rank alike, so that no position shifts."""

    ATTEMPTS = 16

    def __init__(
        self,
        reader: Reader,
        order: Callable[[int], tuple[int, int]],
        prepare: Prepare,
        seed: int,
        quarantine: Quarantine,
    ):
        self.reader, self.order, self.prepare, self.seed, self.quarantine = (
            reader,
            order,
            prepare,
            seed,
            quarantine,
        )

    def __getitem__(self, position: int) -> dict:
        for attempt in range(self.ATTEMPTS):
            epoch, sample_id = self.order(position)
            if attempt:
                sample_id = int(
                    rng(draw_key(self.seed, epoch, sample_id), f"replace {attempt}").integers(len(self.reader.index))
                )
            key = draw_key(self.seed, epoch, sample_id)
            try:
                sample = self.reader.read(sample_id)
                item = self.prepare(sample, rng(key, "prepare"))
            except DamagedSample as damage:
                self.quarantine.add(damage)
                continue
            except SampleError as error:
                self.quarantine.add(DamagedSample(sample.shard, sample.key, str(error)))
                continue
            return {**item, "key": np.int64(key)}
        raise DataError(f"{self.ATTEMPTS} damaged samples in a row at position {position}; see {self.quarantine.path}")


class TrainPlan:
    """Batches of positions of one rank: each global batch is cut into micro-batches, each of those into ranks' shares."""

    def __init__(self, batch_size: int, accumulate: int, share: Share, start_step: int, steps: int):
        parts = accumulate * share.world
        if batch_size % parts:
            raise DataError(
                f"data.batch_size={batch_size} must be a multiple of trainer.accumulate x ranks = {accumulate} x {share.world}"
            )
        self.batch_size, self.accumulate, self.share = batch_size, accumulate, share
        self.local = batch_size // parts
        self.start_step, self.steps = start_step, steps

    def __len__(self) -> int:
        """Micro-batches of the whole run, those before start_step included: Lightning counts them."""
        return self.steps * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start_step, self.steps):
            for micro in range(self.accumulate):
                start = step * self.batch_size + (micro * self.share.world + self.share.rank) * self.local
                yield list(range(start, start + self.local))


class ValPlan:
    """Every sample exactly once over all ranks, the same number of batches on each: places past the end are padding."""

    def __init__(self, samples: int, batch_size: int, share: Share):
        self.samples, self.batch_size, self.share = samples, batch_size, share

    def __len__(self) -> int:
        return -(-self.samples // (self.batch_size * self.share.world))

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(len(self)):
            start = (batch * self.share.world + self.share.rank) * self.batch_size
            yield list(range(start, start + self.batch_size))


class ValPositions(Positions):
    """Position = sample id; positions past the end repeat the last sample with weight 0."""

    def __init__(self, samples: int, *args):
        super().__init__(*args)
        self.samples = samples

    def __getitem__(self, position: int) -> dict:
        item = super().__getitem__(min(position, self.samples - 1))
        return {**item, "weight": np.float32(position < self.samples)}


def collate(items: list[dict]) -> dict:
    """Stack arrays to tensors (B, ...); strings become lists."""
    batch = {}
    for name in items[0]:
        values = [item[name] for item in items]
        batch[name] = values if isinstance(values[0], str) else torch.from_numpy(np.stack(values))
    batch.setdefault("weight", torch.ones(len(items)))
    return batch


def open_index(urls: list[str], what: str) -> Index:
    index = Index.open(expand(urls))
    if not len(index):
        raise DataError(f"{what}: the shards hold no sample; check {urls[0]}")
    return index


def train_batches(
    index: Index,
    prepare: Prepare,
    *,
    seed: int,
    block: int,
    batch_size: int,
    accumulate: int,
    steps: int,
    start_step: int,
    share: Share,
    workers: int,
    quarantine: Path | None,
) -> DataLoader:
    """Micro-batches of this rank from optimiser step `start_step` to `steps`; workers: decoding processes."""
    order = Order(len(index), seed, block)
    data = Positions(Reader(index), order.sample_at, prepare, seed, Quarantine(quarantine, max(1, len(index) // 100)))
    return _loader(data, TrainPlan(batch_size, accumulate, share, start_step, steps), workers)


def val_batches(
    index: Index,
    prepare: Prepare,
    *,
    seed: int,
    samples: int | None,
    batch_size: int,
    share: Share,
    workers: int,
    quarantine: Path | None = None,
) -> DataLoader:
    """The first `samples` (None: all) in shard order; draws are the same at every validation."""
    samples = min(samples or len(index), len(index))
    data = ValPositions(
        samples, Reader(index), _in_order, prepare, seed, Quarantine(quarantine, max(1, len(index) // 100))
    )
    return _loader(data, ValPlan(samples, batch_size, share), workers)


def _in_order(position: int) -> tuple[int, int]:
    return -1, position  # epoch -1: never a training epoch, so never training's draws


def _loader(data: Dataset, plan, workers: int) -> DataLoader:
    """Workers come from a clean server process: a fork of this one could inherit a lock that some thread holds."""
    context = multiprocessing.get_context("forkserver") if workers else None
    if context is not None:
        context.set_forkserver_preload(["vstrain.data.loader", "cv2"])
    return DataLoader(
        data,
        batch_sampler=plan,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_start_worker,
        multiprocessing_context=context,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
    )


def _start_worker(worker: int) -> None:
    """One thread each; Ctrl-C at a terminal reaches every process of the run, and only the trainer answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
