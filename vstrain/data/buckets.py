"""Batches of one shape: samples of like aspect ratio and duration, grouped without reading any data.

The stream is cut into windows of `window` global batches. Inside a window the positions are dealt to batches of one bucket
each; what is left over fills batches that take the middle bucket of their samples. Nothing is carried from one window to
the next, so the plan of a window is a function of its number, and all ranks have the same bucket at the same step.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from vstrain.data.keyed import draw_key, rng


class Bucket(NamedTuple):
    height: int  # pixels
    width: int
    frames: int = 0  # 0: pictures, or clips of any length


class Buckets:
    """buckets: shapes to choose from; sizes: (widths, heights, frames) of global positions; batch: the global batch."""

    def __init__(self, buckets: list[Bucket], sizes, batch: int, window: int, seed: int):
        # neighbours in the list are neighbours in shape: left-overs of neighbours share a batch
        self.buckets = sorted(map(Bucket._make, buckets), key=lambda b: (b.frames, b.width / b.height))
        self.sizes, self.batch, self.window, self.seed = sizes, batch, window, seed
        self._plan = lru_cache(maxsize=3)(self._make_plan)

    def __getstate__(self) -> dict:
        return {name: getattr(self, name) for name in ("buckets", "sizes", "batch", "window", "seed")}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)

    def places(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(positions of the unbucketed stream, bucket numbers) of global positions."""
        span = self.batch * self.window
        windows, slots = np.divmod(positions, span)
        moved, numbers = np.empty_like(positions), np.empty_like(positions)
        for window in np.unique(windows):
            here = windows == window
            order, shape = self._plan(int(window))
            moved[here] = window * span + order[slots[here]]
            numbers[here] = shape[slots[here] // self.batch]
        return moved, numbers

    def choose(self, width: np.ndarray, height: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """The bucket for each size: the longest duration that is there, then the nearest aspect ratio."""
        length = np.array([bucket.frames for bucket in self.buckets])
        aspect = np.array([bucket.width / bucket.height for bucket in self.buckets])
        fits = np.where(length <= frames[:, None], length, -1).max(axis=1)
        fits = np.where(fits < 0, length.min(), fits)
        ratio = np.log(np.maximum(width, 1) / np.maximum(height, 1))
        distance = np.abs(ratio[:, None] - np.log(aspect))
        return np.where(length == fits[:, None], distance, np.inf).argmin(axis=1)

    def _make_plan(self, window: int) -> tuple[np.ndarray, np.ndarray]:
        """(which position of the window stands at each slot, the bucket of each batch)."""
        span = self.batch * self.window
        number = self.choose(*self.sizes(np.arange(window * span, (window + 1) * span)))
        whole, rest, shapes = [], [], []
        for bucket in range(len(self.buckets)):
            members = np.flatnonzero(number == bucket)
            full = len(members) // self.batch * self.batch
            whole += list(members[:full].reshape(-1, self.batch))
            shapes += [bucket] * (full // self.batch)
            rest.append(members[full:])
        rest = np.concatenate(rest).reshape(-1, self.batch)  # sorted by bucket
        whole += list(rest)
        shapes += [int(number[row[self.batch // 2]]) for row in rest]
        order = rng(draw_key(self.seed, -3, window), "buckets").permutation(self.window)
        return np.concatenate(whole).reshape(self.window, self.batch)[order].ravel(), np.array(shapes)[order]
