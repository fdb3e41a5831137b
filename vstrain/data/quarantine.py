"""The ledger of damaged samples of a run: every one named once, by whichever rank meets it first."""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Collection
from pathlib import Path

from vstrain.data.problems import DataError

log = logging.getLogger("vstrain")


class Quarantine:
    """One JSON line a sample in `path` (None: kept in memory); more than `limit` samples of `shards` (None: of any) end the
    run with a DataError. Training and validation share the file, and each counts its own shards.

    Ranks share the file under a lock, so the count is that of the whole run. Positions of damaged samples are filled by
    other samples of the same data set, chosen by the position alone, on every rank alike."""

    def __init__(self, path: Path | None, limit: int, shards: Collection[str] | None = None):
        self.path, self.limit = path, limit
        self.shards = None if shards is None else set(shards)
        self.seen: dict[tuple[str, str], str] = {}
        self._read = 0

    def add(self, shard: str, key: str, reason: str) -> None:
        if (shard, key) in self.seen:
            return
        if self.path is None:
            self.seen[shard, key] = reason
        else:
            self._append(shard, key, reason)
        if len(self.seen) > self.limit:
            shards = sorted({shard for shard, _ in self.seen})
            raise DataError(
                f"{shard}: sample {key}: {reason}; now {len(self.seen)} samples are damaged, more than the {self.limit} that "
                f"data.max_damaged allows, in {len(shards)} shard(s) ({', '.join(shards[:3])}); see {self.path}, run vstrain "
                "data verify, and vstrain data index if the shards were written anew"
            )

    def _append(self, shard: str, key: str, reason: str) -> None:
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(self._read)
            for line in file:  # what other ranks found since
                row = json.loads(line)
                if self.shards is None or row["shard"] in self.shards:
                    self.seen[row["shard"], row["key"]] = row["reason"]
            if (shard, key) not in self.seen:
                self.seen[shard, key] = reason
                row = {"shard": shard, "key": key, "reason": reason, "count": len(self.seen)}
                file.write(json.dumps(row).encode() + b"\n")
                file.flush()
                log.warning(
                    "%s: sample %s: %s; another sample takes its place (%d so far)", shard, key, reason, len(self.seen)
                )
            self._read = file.seek(0, 2)
