"""Which of many 64-bit hashes are nearly the same, exactly, without comparing each with each.

Cut into `bits` + k bands, two hashes that differ in at most `bits` places agree wholly in k of them. So the pairs are found among
those that agree in some choice of k bands; k grows with the number of hashes, so that few others do."""

from __future__ import annotations

from itertools import combinations
from math import log2

import numpy as np

WIDTH = 64
COUNTS = np.array([bin(value).count("1") for value in range(1 << 16)], np.uint8)


def near_duplicates(hashes: np.ndarray, bits: int) -> np.ndarray:
    """int64 (N,): for each of the hashes, uint64 (N,), which earlier one it repeats; -1 where it stays.

    In the order given: one stays unless one that stayed before it differs in at most `bits` places; of several such, the first
    counts."""
    _, first, place = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(first)  # different hashes in the order in which they come first
    ones = first[order]
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    repeats = np.full(len(ones), -1, np.int64)
    for earlier, later in _pairs(hashes[ones], bits).tolist():
        if repeats[earlier] < 0 and repeats[later] < 0:
            repeats[later] = earlier
    mine = rank[place.ravel()]
    kept_as = np.where(repeats[mine] >= 0, repeats[mine], mine)
    found = ones[kept_as]
    return np.where(found == np.arange(len(hashes)), -1, found)


def distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Number of places in which hashes differ."""
    differing = np.ascontiguousarray(one ^ other).view(np.uint16).reshape(-1, 4)
    return COUNTS[differing].sum(axis=1)


def _pairs(hashes: np.ndarray, bits: int) -> np.ndarray:
    """int64 (P, 2): earlier and later of all pairs within `bits`, sorted by the later one, then the earlier one."""
    found = [np.empty((0, 2), np.int64)]
    for mask in _masks(bits, len(hashes)) if bits and len(hashes) > 1 else ():
        found.append(_agreeing(hashes, mask, bits))
    pairs = np.unique(np.concatenate(found)[:, ::-1], axis=0)
    return pairs[:, ::-1]


def _masks(bits: int, count: int) -> list[np.uint64]:
    agreeing = 1
    while WIDTH * agreeing / (bits + agreeing) < min(log2(count), 24):
        agreeing += 1
    ends = [round(WIDTH * n / (bits + agreeing)) for n in range(bits + agreeing + 1)]
    bands = [(1 << end) - (1 << start) for start, end in zip(ends, ends[1:], strict=False)]
    return [np.uint64(sum(chosen)) for chosen in combinations(bands, agreeing)]


def _agreeing(hashes: np.ndarray, mask: np.uint64, bits: int) -> np.ndarray:
    """Pairs within `bits` among those that agree under the mask."""
    masked = hashes & mask
    order = np.argsort(masked, kind="stable")
    masked, found = masked[order], [np.empty((0, 2), np.int64)]
    at, step = np.arange(len(order) - 1), 1
    while True:
        at = at[at + step < len(order)]
        at = at[masked[at] == masked[at + step]]
        if not at.size:
            return np.concatenate(found)
        pairs = np.stack([order[at], order[at + step]], axis=1)
        found.append(np.sort(pairs[distance(hashes[pairs[:, 0]], hashes[pairs[:, 1]]) <= bits], axis=1))
        step += 1
