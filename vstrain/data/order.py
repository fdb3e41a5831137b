"""Which sample stands at global position p: a pure function of (index, seed, p).

Epoch e is the positions [e N, (e + 1) N): every sample once, no padding, no drop. Ranks, workers and restarts play no part.

An epoch is laid out in three steps. Segments (neighbouring samples of one shard) are permuted and put in a row. The row is cut
into `lanes` pieces of equal length, from which positions are dealt in chunks: chunk k belongs to lane k mod lanes, so
that a rank which takes a fixed part of every batch reads few shards. Inside a lane, blocks of `block` samples are permuted.
Nothing is drawn from a stream: permutations are Feistel networks keyed by (seed, epoch, ...), evaluated where needed.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from vstrain.data.keyed import draw_key


class Order:
    """counts: samples of every shard, in the index's order.
    block: samples that are permuted among each other; lanes: pieces read side by side; chunk: samples dealt from a
    lane at a time. lanes x chunk = global batch lets a rank stay in its own lanes."""

    def __init__(self, counts, seed: int, block: int, lanes: int = 1, chunk: int = 1):
        self.counts = np.asarray(counts, np.int64)
        self.seed, self.lanes, self.chunk = seed, lanes, chunk
        self.samples = int(self.counts.sum())
        self.block = min(block, self.samples)
        shard_starts = np.concatenate([[0], np.cumsum(self.counts)])[:-1]
        per_shard = -(-self.counts // self.block)  # segments
        number = np.arange(per_shard.sum()) - np.repeat(np.cumsum(per_shard) - per_shard, per_shard)
        # segments of one shard differ in length by one sample at most
        count, parts = np.repeat(self.counts, per_shard), np.repeat(per_shard, per_shard)
        begin, end = number * count // parts, (number + 1) * count // parts
        self._starts, self._lengths = np.repeat(shard_starts, per_shard) + begin, end - begin
        chunks = -(-self.samples // chunk)
        owned = chunks // lanes + (np.arange(lanes) < chunks % lanes)
        lengths = owned * chunk
        if chunks:
            lengths[(chunks - 1) % lanes] -= chunks * chunk - self.samples
        self._lane_lengths, self._lane_starts = lengths, np.cumsum(lengths) - lengths
        self._row = lru_cache(maxsize=4)(self._permuted_segments)

    def __getstate__(self) -> dict:
        return {"counts": self.counts, "seed": self.seed, "block": self.block, "lanes": self.lanes, "chunk": self.chunk}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)

    def samples_at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(epochs, sample ids), int64, of int64 global positions."""
        epochs, places = np.divmod(np.asarray(positions, np.int64), self.samples)
        ids = np.empty_like(places)
        for epoch in np.unique(epochs):
            ids[epochs == epoch] = self._of_epoch(int(epoch), places[epochs == epoch])
        return epochs, ids

    def _of_epoch(self, epoch: int, places: np.ndarray) -> np.ndarray:
        chunk, inside = np.divmod(places, self.chunk)
        turn, lane = np.divmod(chunk, self.lanes)
        block, slot = np.divmod(turn * self.chunk + inside, self.block)
        size = np.minimum(self.block, self._lane_lengths[lane] - block * self.block)
        keys = mix(mix((lane << 40 | block).astype(np.uint64)) ^ np.uint64(draw_key(self.seed, epoch, -2)))
        at = self._lane_starts[lane] + block * self.block + permute(slot, size, keys)
        order, ends = self._row(epoch)
        slot = np.searchsorted(ends, at, side="right")
        segment = order[slot]
        return self._starts[segment] + self._lengths[segment] - (ends[slot] - at)

    def _permuted_segments(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        number = np.arange(len(self._starts))
        key = np.full(len(number), draw_key(self.seed, epoch, -1), np.uint64)
        order = permute(number, np.full(len(number), len(number)), key)
        return order, np.cumsum(self._lengths[order])


ROUNDS = tuple(
    np.uint64(number * 0x9E3779B97F4A7C15 % 2**64) for number in range(6)
)  # fewer are not even on tiny ranges


def permute(values: np.ndarray, sizes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Element i: where a permutation of [0, sizes[i]) chosen by keys[i] (uint64) sends values[i] (int64).

    A balanced Feistel network (Luby and Rackoff 1988) on the next even number of bits, walked along its
    cycle until it lands inside the range."""
    half = (np.ceil(np.log2(np.maximum(sizes, 2))).astype(np.int64) + 1) // 2
    shift, limit = half.astype(np.uint64), sizes.astype(np.uint64)
    mask = (np.int64(1) << half).astype(np.uint64) - np.uint64(1)
    out = _network(values.astype(np.uint64), shift, mask, keys)
    outside = np.flatnonzero(out >= limit)
    while len(outside):
        out[outside] = _network(out[outside], shift[outside], mask[outside], keys[outside])
        outside = outside[out[outside] >= limit[outside]]
    return out.astype(np.int64)


def _network(x: np.ndarray, shift: np.ndarray, mask: np.ndarray, keys: np.ndarray) -> np.ndarray:
    left, right = x >> shift, x & mask
    for constant in ROUNDS:
        left, right = right, left ^ (mix(right + keys + constant) & mask)
    return left << shift | right


M1, M2, S27, S30, S31 = (np.uint64(n) for n in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 27, 30, 31))


def mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every bit of uint64 `x` moves half of the output's."""
    x = (x ^ (x >> S30)) * M1
    x = (x ^ (x >> S27)) * M2
    return x ^ (x >> S31)
