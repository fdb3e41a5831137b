"""Reading one sample: positioned reads of just its members, the hash checked, the bytes decoded."""

from __future__ import annotations

import os

import xxhash

from vstrain.data import codecs
from vstrain.data.index import Index


class DamagedSample(ValueError):
    """A sample that cannot be read: shard, key and reason."""

    def __init__(self, shard: str, key: str, reason: str):
        super().__init__(f"{shard}: sample {key}: {reason}")
        self.shard, self.key, self.reason = shard, key, reason


class Reader:
    """`reader.read(n)` -> the decoded sample dict of row n (see vstrain.data.kinds). Open files are kept, per process."""

    def __init__(self, index: Index):
        self.index = index
        self._files: dict[int, int] = {}
        self._pid = os.getpid()

    def read(self, n: int, skip: tuple[str, ...] = ()) -> dict:
        """Members named in `skip` are hashed but not decoded."""
        shard, key = int(self.index.shard[n]), self.index.key(n)
        digest, sample = xxhash.xxh3_64(), {"__key__": key}
        parts = []
        for name, offset, size in self.index.members(n):
            data = os.pread(self._file(shard), size, offset)
            digest.update(data)
            parts.append((name, data))
        if digest.intdigest() != int(self.index.hash[n]):
            raise self._damaged(shard, key, "its bytes do not match the hash in the index")
        for name, data in parts:
            if name not in skip:
                try:
                    sample[name] = codecs.decode(name, data)
                except Exception as error:  # decoders raise many types
                    raise self._damaged(shard, key, f"member {name} does not decode ({error})") from error
        return sample

    def _damaged(self, shard: int, key: str, reason: str) -> DamagedSample:
        return DamagedSample(str(self.index.shards[shard]), key, reason)

    def _file(self, shard: int) -> int:
        if self._pid != os.getpid():  # a forked worker must not share file handles' lifetime with its parent
            self._files, self._pid = {}, os.getpid()
        if shard not in self._files:
            if len(self._files) >= 64:
                os.close(self._files.pop(next(iter(self._files))))
            self._files[shard] = os.open(self.index.shards[shard], os.O_RDONLY)
        return self._files[shard]
