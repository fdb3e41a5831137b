"""Several data sets in one stream: which source has global position p, and how many it had before, in closed form."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from vstrain.data.problems import DataError

LONGEST_PERIOD = 10_000  # weights with up to four decimals are exact


class Mixture:
    """weights: one positive number a source. The stream repeats a period in which source k has `quotas[k]` of `period`
    positions, spread so that after any n positions it had weight x n, give or take less than one (the schedule of
    R. Tijdeman, "The chairman assignment problem", 1980)."""

    def __init__(self, weights: list[float]):
        if not all(math.isfinite(weight) and weight > 0 for weight in weights):
            raise DataError(
                f"data weights {weights}: each must be a positive number; leave out a data set that shall have no share"
            )
        self.quotas = _quotas(weights)
        self.period = sum(self.quotas)
        self.layout = np.array(_spread(self.quotas), np.int64)
        taken = np.arange(len(weights))[:, None] == self.layout
        self._before = np.concatenate([np.zeros((len(weights), 1), np.int64), np.cumsum(taken, axis=1)], axis=1)

    def places(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(source, position within that source) of global positions."""
        turn, slot = np.divmod(positions, self.period)
        source = self.layout[slot]
        return source, turn * np.array(self.quotas)[source] + self._before[source, slot]


def _quotas(weights: list[float]) -> list[int]:
    exact = [Fraction(str(weight)) for weight in weights]
    shares = [weight / sum(exact) for weight in exact]
    period = math.lcm(*(share.denominator for share in shares))
    if period > LONGEST_PERIOD:
        return _largest_remainders(shares, LONGEST_PERIOD)
    return [int(share * period) for share in shares]


def _largest_remainders(shares: list[Fraction], period: int) -> list[int]:
    """Whole numbers, one at least each, that sum to `period` and are nearest to shares x period."""
    quotas = [max(1, int(share * period)) for share in shares]
    order = sorted(range(len(shares)), key=lambda k: quotas[k] - shares[k] * period)
    while sum(quotas) != period:
        step = 1 if sum(quotas) < period else -1
        for k in order if step > 0 else reversed(order):
            if quotas[k] + step >= 1 and sum(quotas) != period:
                quotas[k] += step
    return quotas


def _spread(quotas: list[int]) -> list[int]:
    """The source of every position of a period. At each position, among the sources that may have one more, the one whose
    latest allowed position comes first."""
    period, count = sum(quotas), len(quotas)
    if count == 1:
        return [0] * period
    half = 2 * count - 2
    had, out = [0] * count, []
    for n in range(1, period + 1):
        owed = [quotas[k] * n - had[k] * period for k in range(count)]  # times 1 / period
        ready = [k for k in range(count) if owed[k] * half >= period]
        k = min(ready, key=lambda k: Fraction(period * (half - 1) - owed[k] * half, quotas[k]))
        had[k] += 1
        out.append(k)
    return out
