"""Reading one sample: positioned reads of just its members, the hash checked, the bytes decoded."""

from __future__ import annotations

import os
from collections.abc import Mapping

import xxhash

from vstrain.data import codecs
from vstrain.data.index import Index


class DamagedSample(ValueError):
    """A sample that cannot be read: shard, key and reason."""

    def __init__(self, shard: str, key: str, reason: str):
        super().__init__(f"{shard}: sample {key}: {reason}")
        self.shard, self.key, self.reason = shard, key, reason


class Sample(Mapping):
    """A sample whose members are decoded when they are asked for, once: a system pays for what its `prepare` reads."""

    def __init__(self, shard: str, key: str, members: dict[str, bytes]):
        self.shard, self.key, self._members = shard, key, members
        self._values: dict = {"__key__": key}

    def __getitem__(self, name: str):
        if name not in self._values:
            try:
                self._values[name] = codecs.decode(name, self._members[name])
            except KeyError:
                raise
            except Exception as error:  # decoders raise many types
                reason = f"member {name} does not decode ({error})"
                raise DamagedSample(self.shard, self.key, reason) from error
        return self._values[name]

    def __iter__(self):
        return iter(["__key__", *self._members])

    def __len__(self) -> int:
        return 1 + len(self._members)


class Reader:
    """`reader.read(n)` -> the Sample of row n (see vstrain.data.kinds). Open files are kept, per process."""

    def __init__(self, index: Index):
        self.index = index
        self._files: dict[int, int] = {}
        self._pid = os.getpid()

    def read(self, n: int) -> Sample:
        shard, key = int(self.index.shard[n]), self.index.key(n)
        digest, members = xxhash.xxh3_64(), {}
        for name, offset, size in self.index.members(n):
            members[name] = os.pread(self._file(shard), size, offset)
            digest.update(members[name])
        if digest.intdigest() != int(self.index.hash[n]):
            raise DamagedSample(str(self.index.shards[shard]), key, "its bytes do not match the hash in the index")
        return Sample(str(self.index.shards[shard]), key, members)

    def _file(self, shard: int) -> int:
        if self._pid != os.getpid():  # a forked worker must not share file handles' lifetime with its parent
            self._files, self._pid = {}, os.getpid()
        if shard not in self._files:
            if len(self._files) >= 64:
                os.close(self._files.pop(next(iter(self._files))))
            self._files[shard] = os.open(self.index.shards[shard], os.O_RDONLY)
        return self._files[shard]
