"""A run's history on W&B, without gaps or doubles over kills and resumes.

W&B cannot take back what a killed start logged past its last checkpoint, and a killed start takes with it what its helper process
had not written yet. So before a start goes on, it sends what is missing of metrics.jsonl; and what is there is not sent again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

STEP = "trainer/global_step"  # as WandbLogger names it
BLOCK, IDENT, HEADER = 32768, 7, "<IHB"  # of W&B's log of a run: LevelDB's format after seven bytes of its own
FULL, LAST = 1, 4  # a record in one part, the last part of several


class WandbHistory(WandbLogger):
    """earlier: the lines of metrics.jsonl that the start goes on from. The other words are WandbLogger's."""

    def __init__(self, earlier: list[dict], **words):
        super().__init__(**words)
        self.earlier, self.there = earlier, None

    @rank_zero_only
    def log_metrics(self, metrics: dict, step: int | None = None) -> None:
        if self.there is None:
            folder = Path(self.save_dir) / "wandb"
            self.there = written(folder) if self._offline else {}
            self.least = 0 if self._offline else self.experiment.summary.get(STEP, 0)  # the server's word
            for line in self.earlier:
                self.log_metrics({name: value for name, value in line.items() if name != "step"}, line["step"])
        new = {name: value for name, value in metrics.items() if step > self.there.get(name, self.least)}
        if new:
            self.experiment.log(new | {STEP: step}, step=step)  # W&B's own step as well: starts do not count anew


def written(folder: Path) -> dict[str, int]:
    """name -> last step in the logs of a run's earlier starts, below `folder`."""
    from wandb.proto.wandb_internal_pb2 import Record

    last: dict[str, int] = {}
    for path in folder.glob("*run-*/run-*.wandb"):
        for data in records(path.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            if STEP in row:
                last |= {name: max(int(row[STEP]), last.get(name, 0)) for name in row}
    return last


def records(log: bytes) -> Iterator[bytes]:
    """Those that were written whole."""
    at, record, size = IDENT, b"", struct.calcsize(HEADER)
    while at + size <= len(log):
        left = BLOCK - at % BLOCK
        if left < size:  # filled up
            at += left
            continue
        _, length, kind = struct.unpack_from(HEADER, log, at)
        at += size
        if at + length > len(log) or not kind:
            return
        record += log[at : at + length]
        at += length
        if kind in (FULL, LAST):
            yield record
            record = b""
