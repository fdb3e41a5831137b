"""Reading one sample: positioned reads of just the members that are asked for, each hash checked, the bytes decoded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

import numpy as np
import xxhash

from vstrain.data import codecs
from vstrain.data.index import Index
from vstrain.data.problems import DataError
from vstrain.data.remote import StorageError
from vstrain.data.storage import Storage, is_remote


class DamagedSample(Exception):
    """A sample that cannot be used: shard, key and reason."""

    def __init__(self, shard: str, key: str, reason: str):
        super().__init__(f"{shard}: sample {key}: {reason}")
        self.shard, self.key, self.reason = shard, key, reason


class MissingMember(DamagedSample, KeyError):
    """A sample without a member that its kind has."""


class Sample(Mapping):
    """A sample whose members are read and decoded when they are asked for, once: a system pays for what its `prepare` uses.

    bucket: the (height, width, frames) that this batch has, where data.buckets is set, else None; role: its source's."""

    def __init__(self, reader: Reader, n: int, bucket=None, slot: dict | None = None):
        index = reader.index
        self.shard, self.key, self.bucket, self.role = reader._shard(n), index.key(n), bucket, reader.role
        self._reader, self._members = reader, index.members(n)
        self.slot = slot or {}  # arrays of the batch that the item may be written into
        self._values: dict = {"__key__": self.key}

    def raw(self, name: str) -> bytes:
        """The bytes of member `name`, equal to those that were indexed."""
        if name not in self._members:
            raise MissingMember(self.shard, self.key, f"member {name} is missing; it has {', '.join(self._members)}")
        offset, size, digest = self._members[name]
        try:
            data = self._reader.fetch(self.shard, offset, size, name)
            if xxhash.xxh3_64_intdigest(data) != digest and is_remote(self.shard):
                self._reader.storage.forget(self.shard)  # a bad copy is no reason to give the sample up
                data = self._reader.storage.read(self.shard, offset, size)
        except StorageError as error:
            if is_remote(self.shard) and not error.missing:
                raise DataError(
                    f"{error}; the run ends here, so that an outage is not taken for damaged samples: resume it when the "
                    "address can be reached"
                ) from error
            raise DamagedSample(self.shard, self.key, f"member {name} cannot be read ({error})") from error
        if xxhash.xxh3_64_intdigest(data) != digest:
            raise DamagedSample(self.shard, self.key, f"the bytes of member {name} do not match the hash in the index")
        return data

    def __getitem__(self, name: str):
        if name not in self._values:
            data = self.raw(name)
            try:
                self._values[name] = codecs.decode(name, data)
            except Exception as error:  # decoders raise many types
                reason = f"member {name} does not decode ({error})"
                raise DamagedSample(self.shard, self.key, reason) from error
        return self._values[name]

    def __contains__(self, name) -> bool:
        return name in self._values or name in self._members

    def __iter__(self):
        return iter(["__key__", *self._members])

    def __len__(self) -> int:
        return 1 + len(self._members)


def empty(sample: Mapping, name: str, shape: tuple[int, ...], dtype) -> np.ndarray:
    """An array for item `name`: the place in the batch where it belongs, if there is one, so that nothing need be copied.

    `prepare` fills it wholly and returns it as it is; `sample` may be a plain dict."""
    place = getattr(sample, "slot", {}).get(name)
    if place is not None and place.shape == shape and place.dtype == dtype:
        return place
    return np.empty(shape, dtype)


class Reader:
    """`reader.read(n)` -> the Sample of row n (see vstrain.data.kinds).

    It learns which members are used, so that `fetch_ahead` can get those of many samples at once."""

    def __init__(self, index: Index, storage: Storage | None = None, role: str | None = None):
        self.index, self.storage, self.role = index, storage or Storage(), role
        self._remote = any(map(is_remote, index.shards))
        self._used: set[str] = set()
        self._ahead: dict[tuple[str, int], bytes] = {}

    def __getstate__(self) -> dict:
        return {"index": self.index, "storage": self.storage, "role": self.role}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)

    def read(self, n: int, bucket=None, slot: dict | None = None) -> Sample:
        return Sample(self, n, bucket, slot)

    def fetch(self, shard: str, offset: int, size: int, name: str) -> bytes:
        self._used.add(name)
        data = self._ahead.pop((shard, offset), None)
        return self.storage.read(shard, offset, size) if data is None else data

    def fetch_ahead(self, samples: Iterable[int]) -> None:
        """Get the used members of these samples on their way before they are asked for one by one: from remote shards in one
        go, from local ones by a hint to the operating system."""
        wanted = []
        for n in samples if self._used else ():
            members = self.index.members(n)
            wanted += [(self._shard(n), *members[name][:2]) for name in self._used if name in members]
        if not self._remote:
            self.storage.advise(wanted)
            return
        self._ahead = {}
        with contextlib.suppress(OSError):  # the sample that cannot be read will say so itself
            found = self.storage.read_many(wanted)
            self._ahead = {(shard, offset): data for (shard, offset, _), data in zip(wanted, found, strict=True)}

    def announce(self, samples: Iterable[int]) -> None:
        """Tell the cache which shards come next, soonest first."""
        if self._remote and self.storage.cache:
            self.storage.prefetch(list(dict.fromkeys(map(self._shard, samples))))

    def _shard(self, n: int) -> str:
        return self.index.shards[int(self.index.shard[n])]
