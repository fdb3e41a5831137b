"""What stands at a global position: source, epoch, sample, shape. The state of training data is one number, the position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vstrain.data.buckets import Bucket, Buckets
from vstrain.data.index import Index
from vstrain.data.mixture import Mixture
from vstrain.data.order import Order
from vstrain.data.problems import DataError


class Places(NamedTuple):
    """One row a position: source number, epoch (-1 in validation), sample id in its source, weight (0: padding), bucket."""

    source: np.ndarray
    epoch: np.ndarray
    sample: np.ndarray
    weight: np.ndarray
    bucket: np.ndarray


@dataclass(frozen=True)
class Share:
    """This process among those that train together."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Arrangement:
    """How a training stream is ordered; see vstrain.data.order and vstrain.data.buckets."""

    seed: int
    block: int
    lanes: int = 1
    chunk: int = 1
    buckets: tuple[Bucket, ...] = ()
    window: int = 64


class TrainStream:
    """An endless stream over one or several data sets. `batch`: samples of a global step; buckets are planned with it."""

    def __init__(self, indices: list[Index], weights: list[float], layout: Arrangement, batch: int):
        self.indices, self.mixture = indices, Mixture(weights)
        self.orders = [
            Order(np.diff(index.shard_starts), layout.seed + number, layout.block, layout.lanes, layout.chunk)
            for number, index in enumerate(indices)
        ]
        self.buckets = (
            Buckets(list(layout.buckets), self.sizes, batch, layout.window, layout.seed) if layout.buckets else None
        )

    def places(self, positions: np.ndarray) -> Places:
        bucket = np.full(len(positions), -1)
        if self.buckets:
            positions, bucket = self.buckets.places(positions)
        source, epoch, sample = self._samples(positions)
        return Places(source, epoch, sample, np.ones(len(positions), np.float32), bucket)

    def sizes(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(widths, heights, frames) of the samples at positions of the unbucketed stream."""
        source, _, sample = self._samples(positions)
        out = np.zeros((3, len(positions)), np.int64)
        for number, index in enumerate(self.indices):
            here = source == number
            out[:, here] = index.width[sample[here]], index.height[sample[here]], index.frames[sample[here]]
        return tuple(out)

    def _samples(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        source, own = self.mixture.places(positions)
        epoch, sample = np.empty_like(own), np.empty_like(own)
        for number, order in enumerate(self.orders):
            here = source == number
            if here.any():
                epoch[here], sample[here] = order.samples_at(own[here])
        return source, epoch, sample


class ValStream:
    """The first `samples` of one data set in its own order; positions beyond them are padding of weight 0."""

    def __init__(self, index: Index, samples: int):
        self.indices, self.samples, self.buckets = [index], samples, None

    def places(self, positions: np.ndarray) -> Places:
        zero = np.zeros_like(positions)
        inside = positions < self.samples
        # epoch -1 is never a training epoch, so validation never has training's draws
        return Places(
            zero, zero - 1, np.where(inside, positions, self.samples - 1), inside.astype(np.float32), zero - 1
        )


class TrainPlan:
    """plan[k]: the positions of micro-batch k of one rank. A global batch is cut into micro-batches, each into ranks' shares.

    start: samples that training has seen, where it continues; steps: optimiser steps still to come."""

    def __init__(self, batch_size: int, accumulate: int, share: Share, start: int, steps: int):
        parts = accumulate * share.world
        if batch_size % parts:
            raise DataError(
                f"data.batch_size={batch_size} must be a multiple of trainer.accumulate x ranks = {accumulate} x {share.world}"
            )
        self.batch_size, self.accumulate, self.share = batch_size, accumulate, share
        self.start, self.steps, self.local = start, steps, batch_size // parts

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def __getitem__(self, k: int) -> np.ndarray:
        step, micro = divmod(k % len(self), self.accumulate)
        first = self.start + step * self.batch_size + (micro * self.share.world + self.share.rank) * self.local
        return np.arange(first, first + self.local)


class ValPlan:
    """Every sample exactly once over all ranks, the same number of batches on each."""

    def __init__(self, samples: int, batch_size: int, share: Share):
        self.samples, self.batch_size, self.share = samples, batch_size, share

    def __len__(self) -> int:
        return -(-self.samples // (self.batch_size * self.share.world))

    def __getitem__(self, k: int) -> np.ndarray:
        first = (k % len(self) * self.share.world + self.share.rank) * self.batch_size
        return np.arange(first, first + self.batch_size)
