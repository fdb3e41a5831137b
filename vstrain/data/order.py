"""Which sample stands at global position p: a pure function of (number of samples, seed, block, p).

Epoch e is the positions [e N, (e + 1) N): every sample once, no padding, no drop. Blocks of `block` neighbouring samples
are permuted, then the samples inside each block, so that reading stays local to a few shards. Ranks, workers and restarts
play no part.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from vstrain.data.keyed import draw_key, rng


class Order:
    def __init__(self, samples: int, seed: int, block: int):
        self.samples, self.seed, self.block = samples, seed, min(block, samples)
        self.blocks = -(-samples // self.block)
        self._blocks_of_epoch = lru_cache(maxsize=4)(self._permuted_blocks)
        self._inside_of_block = lru_cache(maxsize=64)(self._permuted_inside)

    def __getstate__(self) -> dict:
        return {"samples": self.samples, "seed": self.seed, "block": self.block}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)

    def sample_at(self, position: int) -> tuple[int, int]:
        """(epoch, sample id) of a global position."""
        epoch, place = divmod(position, self.samples)
        order, ends = self._blocks_of_epoch(epoch)
        slot = int(np.searchsorted(ends, place, side="right"))
        start = int(ends[slot - 1]) if slot else 0
        block = int(order[slot])
        return epoch, block * self.block + int(self._inside_of_block(epoch, block)[place - start])

    def _permuted_blocks(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        order = rng(draw_key(self.seed, epoch, -1), "blocks").permutation(self.blocks)
        sizes = np.full(self.blocks, self.block)
        sizes[order == self.blocks - 1] = self.samples - (self.blocks - 1) * self.block
        return order, np.cumsum(sizes)

    def _permuted_inside(self, epoch: int, block: int) -> np.ndarray:
        size = min(self.block, self.samples - block * self.block)
        return rng(draw_key(self.seed, epoch, block), "inside").permutation(size)
