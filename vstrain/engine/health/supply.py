"""The micro-batches of a rank on their way into the loop: what stands in each, and whether they ran out too early."""

from __future__ import annotations

from collections.abc import Iterator

from vstrain.data.loader import Loader
from vstrain.data.problems import DataError
from vstrain.engine.health.meter import Meter


class Supply:
    """`loader`, watched. When it ends too early its last batch is lent once more, so that this rank still takes part in the
    step that the others are in; `exhausted` then keeps all of them from taking that step."""

    def __init__(self, loader: Loader, meter: Meter):
        self.loader, self.meter, self.number, self.exhausted = loader, meter, -1, False

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict]:
        batches, self.number = iter(self.loader), -1
        batch = None
        for _ in range(len(self.loader.plan)):
            with self.meter.inside("data"):
                following = next(batches, None)
            self.exhausted = following is None
            if self.exhausted and batch is None:
                raise DataError(
                    "data.train: it gave this rank no batch at all; look at the shards with vstrain data verify"
                )
            batch = batch if self.exhausted else following
            self.number += 1
            yield batch

    def contents(self, back: int) -> list[dict]:
        """Position, epoch, shard and key of each sample of the batch handed out `back` batches ago (0: the last one)."""
        return self.loader.contents(self.number - back)
