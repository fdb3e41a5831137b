"""Batches of torch tensors for training and validation; see stream (what comes), work (how it is made), ring (who makes it)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vstrain.data.index import Index
from vstrain.data.problems import DataError
from vstrain.data.quarantine import Quarantine
from vstrain.data.reader import Reader
from vstrain.data.ring import Batch, Ring, fresh
from vstrain.data.storage import Storage, expand
from vstrain.data.stream import Arrangement, Share, TrainPlan, TrainStream, ValPlan, ValStream
from vstrain.data.work import Prepare, Work, fill


@dataclass(frozen=True)
class Means:
    """What reading may use; nothing here changes what is read.

    workers: processes that make batches (0: the training process does); ahead: batches each prepares in advance;
    timeout: seconds until a worker that makes no progress is replaced; max_damaged: share of a data set that may be
    damaged before a run ends; ledger: the file that names damaged samples; storage: how bytes are read."""

    workers: int = 0
    ahead: int = 3
    timeout: float = 120.0
    max_damaged: float = 0.01
    ledger: Path | None = None
    storage: Storage | None = None


class Loader:
    """One pass over a plan: dicts of torch tensors (B, ...), strings as lists. On CUDA machines the tensors are pinned.

    skipped: batches that came before this pass, which count in len() because Lightning counts them."""

    def __init__(self, work: Work, plan, means: Means, samples: int, skipped: int = 0):
        self.work, self.plan, self.means, self.skipped = work, plan, means, skipped
        shards = [shard for reader in work.readers for shard in reader.index.shards]
        self.quarantine = Quarantine(means.ledger, int(means.max_damaged * samples), shards)

    def __len__(self) -> int:
        return self.skipped + len(self.plan)

    def __iter__(self) -> Iterator[dict]:
        pin = torch.cuda.is_available()
        for reader in self.work.readers:
            for shard, offset, reason in reader.index.faults:
                self.quarantine.add(shard, f"at byte {offset}", reason)
        for arrays, words, damaged in self._batches():
            for shard, key, reason in damaged:
                self.quarantine.add(shard, key, reason)
            batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
            del arrays  # the slot is free again when the tensors are gone
            yield {name: tensor.pin_memory() if pin else tensor for name, tensor in batch.items()} | words
            del batch

    def contents(self, k: int) -> list[dict]:
        """Position, epoch, shard and key of each sample of batch `k` of this pass (of a damaged one, not its replacement)."""
        positions = self.plan[k]
        places = self.work.stream.places(positions)
        found = []
        for position, source, epoch, sample in zip(
            *(column.tolist() for column in (positions, places.source, places.epoch, places.sample)), strict=True
        ):
            index = self.work.readers[source].index
            shard = index.shards[int(index.shard[sample])]
            found.append({"position": position, "epoch": epoch, "shard": shard, "key": index.key(sample)})
        return found

    def _batches(self) -> Iterator[Batch]:
        means = self.means
        if means.workers and len(self.plan) > 1:
            yield from Ring(self.work, self.plan, means.workers, ahead=means.ahead, timeout=means.timeout)
            return
        for k in range(len(self.plan)):
            damaged: list = []
            layout, words, block = fill(self.work, self.plan[k], damaged, fresh)
            yield Batch(layout.views(block), words, damaged)


def open_index(urls: Sequence[str], what: str, progress=None) -> Index:
    """The index of the shards that `urls` name; `what` (a config key) for messages."""
    index = Index.open(expand(list(urls)), progress)
    if not len(index):
        raise DataError(f"{what}: the shards hold no sample; check {urls[0]}")
    return index


def train_batches(
    indices: Sequence[Index],
    weights: Sequence[float],
    prepare: Prepare,
    arrangement: Arrangement,
    *,
    batch_size: int,
    accumulate: int,
    steps: int,
    start: int = 0,
    share: Share = Share(),  # noqa: B008 - frozen
    means: Means = Means(),  # noqa: B008
    roles: Sequence[str | None] | None = None,
) -> Loader:
    """Micro-batches of this rank for `steps` optimiser steps, from the sample at position `start` on."""
    if (samples := sum(map(len, indices))) < share.world:
        raise DataError(
            f"data.train.urls: {samples} samples for {share.world} ranks, a rank would train on copies; use at most {samples} "
            "ranks, or give more data"
        )
    stream = TrainStream(list(indices), list(weights), arrangement, batch_size)
    roles = roles or [None] * len(indices)
    readers = [Reader(index, means.storage, role) for index, role in zip(indices, roles, strict=True)]
    work = Work(stream, readers, prepare, arrangement.seed)
    plan = TrainPlan(batch_size, accumulate, share, start, steps)
    return Loader(work, plan, means, samples, skipped=start // batch_size * accumulate)


def val_batches(
    index: Index,
    prepare: Prepare,
    *,
    seed: int,
    samples: int | None,
    batch_size: int,
    share: Share = Share(),  # noqa: B008
    means: Means = Means(),  # noqa: B008
) -> Loader:
    """The first `samples` (None: all) in shard order; draws are the same at every validation."""
    samples = min(samples or len(index), len(index))
    work = Work(ValStream(index, samples), [Reader(index, means.storage)], prepare, seed)
    return Loader(work, ValPlan(samples, batch_size, share), means, len(index))
