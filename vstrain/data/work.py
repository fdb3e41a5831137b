"""From positions to training items, in whichever process: the trainer's own, or a data worker's. No torch here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from vstrain.data.keyed import draw_key, rng
from vstrain.data.kinds import SampleError
from vstrain.data.problems import DataError
from vstrain.data.reader import DamagedSample, Reader
from vstrain.data.stream import TrainStream, ValStream

Prepare = Callable[[dict, np.random.Generator], dict]  # a system's `prepare` with its config and mode filled in
LOOK_AHEAD = 8192  # positions whose shards the cache is told of
Damage = tuple[str, str, str]  # shard, key, reason


@dataclass
class Work:
    """Makes the item of each position. A damaged sample is reported and replaced by one that (position's sample, attempt)
    alone decide, within its own data set, so that no position shifts and every rank does alike."""

    ATTEMPTS = 5

    stream: TrainStream | ValStream
    readers: list[Reader]
    prepare: Prepare
    seed: int
    # bucket -> item name -> (shape, dtype): what all items must be
    shapes: dict[int, dict] = field(default_factory=dict)

    def items(
        self,
        positions: np.ndarray,
        damaged: list[Damage],
        slot: dict[str, np.ndarray] | None = None,
        begin: Callable[[int], None] = lambda position: None,
    ) -> Iterator[dict]:
        """One item a position, in order; what was found damaged on the way is appended to `damaged`.

        slot: arrays that the next item may be written into (see vstrain.data.reader.empty); `begin` is called with each
        position before work on it starts."""
        places = self.stream.places(positions)
        self.announce(int(positions[0]))
        self.fetch_ahead(places)
        for position, source, epoch, sample, weight, bucket in zip(
            positions.tolist(), *(column.tolist() for column in places), strict=True
        ):
            begin(position)
            item = self._item(position, source, epoch, sample, bucket, damaged, slot)
            item["weight"] = np.float32(weight)
            yield item

    def fetch_ahead(self, places) -> None:
        for number, reader in enumerate(self.readers):
            reader.fetch_ahead(places.sample[places.source == number].tolist())

    def announce(self, position: int) -> None:
        """Let the cache copy the shards that positions from here on lie in."""
        if any(reader.storage.cache for reader in self.readers):
            places = self.stream.places(position + np.arange(0, LOOK_AHEAD, LOOK_AHEAD // 128))
            for number, reader in enumerate(self.readers):
                reader.announce(places.sample[places.source == number].tolist())

    def _item(
        self, position: int, source: int, epoch: int, sample: int, bucket: int, damaged: list[Damage], slot: dict | None
    ) -> dict:
        reader = self.readers[source]
        for attempt in range(self.ATTEMPTS):
            key = draw_key(self.seed + source, epoch, sample)
            try:
                found = reader.read(sample, self.stream.buckets.buckets[bucket] if bucket >= 0 else None, slot)
                try:
                    item = {**self.prepare(found, rng(key, "prepare")), "key": np.int64(key)}
                    self._check(item, bucket)
                except SampleError as error:
                    raise DamagedSample(found.shard, found.key, str(error)) from error
                return item
            except DamagedSample as damage:
                damaged.append((damage.shard, damage.key, damage.reason))
            sample = int(rng(key, f"replace {attempt}").integers(len(reader.index)))
        raise DataError(
            f"{self.ATTEMPTS} damaged samples in a row for position {position}, the last: {': '.join(damaged[-1])}; run "
            "vstrain data verify on the shards"
        )

    def _check(self, item: dict, bucket: int) -> None:
        shapes = self.shapes.setdefault(bucket, {})
        for name, value in item.items():
            if isinstance(value, str):
                continue
            shape = (np.shape(value), value.dtype)
            if shapes.setdefault(name, shape) != shape:
                raise SampleError(
                    f"its {name} is {shape[1]} {shape[0]}, that of the others is {shapes[name][1]} {shapes[name][0]}"
                )
            if value.dtype.kind == "f" and not math.isfinite(value.sum(dtype=np.float64)):
                raise SampleError(f"its {name} holds numbers that are not finite")


@dataclass(frozen=True)
class Layout:
    """Where the arrays of a batch lie in one block of memory: name -> (offset, shape, dtype); and how long the block is."""

    fields: dict[str, tuple[int, tuple[int, ...], str]]
    nbytes: int

    @classmethod
    def of(cls, item: dict, count: int) -> Layout:
        fields, at = {}, 0
        for name, value in item.items():
            if not isinstance(value, str):
                fields[name] = (at, (count, *np.shape(value)), value.dtype.str)
                at += -(-count * value.nbytes // 64) * 64
        return cls(fields, at)

    def views(self, memory: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays of a batch in `memory`, uint8 (nbytes or more,)."""
        out = {}
        for name, (offset, shape, dtype) in self.fields.items():
            nbytes = math.prod(shape) * np.dtype(dtype).itemsize
            out[name] = memory[offset : offset + nbytes].view(dtype).reshape(shape)
        return out


def fill(
    work: Work,
    positions: np.ndarray,
    damaged: list[Damage],
    memory: Callable[[int], np.ndarray],
    begin: Callable[[int], None] = lambda position: None,
) -> tuple[Layout, dict[str, list[str]], np.ndarray]:
    """Make the batch of `positions` in the block that `memory(nbytes)` gives. Returns its layout, the strings, the block.

    From the second item on, `prepare` may write straight into the batch; what it makes elsewhere is copied."""
    layout, block, views, words, slot = None, None, {}, {}, {}
    for row, item in enumerate(work.items(positions, damaged, slot, begin)):
        if layout is None:
            layout = Layout.of(item, len(positions))
            block = memory(layout.nbytes)
            views = layout.views(block)
        for name, value in item.items():
            if isinstance(value, str):
                words.setdefault(name, []).append(value)
            elif value is not slot.get(name):
                views[name][row] = value
        slot.clear()
        if row + 1 < len(positions):
            slot |= {name: view[row + 1] for name, view in views.items() if view.ndim > 1}
    return layout, words, block
