"""Writing shards: the one way in which any pipeline puts samples on disk.

A shard is a plain WebDataset tar. It is written under a temporary name, flushed and renamed, so a shard that can be seen
is whole. The same samples in the same order give the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import xxhash

from vstrain.data import codecs, kinds
from vstrain.data.atomic import sync_folder, temporary_of
from vstrain.data.index import Index


def encode_sample(kind: str, sample: dict, jpeg_quality: int = 92) -> dict:
    """The checked sample with every member as bytes; members that are bytes already stay. Pools call it in their workers."""
    kinds.check(kind, sample)
    facts = sample.get("json")
    fps = facts.get("fps", 8.0) if isinstance(facts, dict) else 8.0
    return {
        name: value
        if name == "__key__" or isinstance(value, bytes)
        else codecs.encode(name, value, quality=jpeg_quality, fps=fps)
        for name, value in sample.items()
    }


@dataclass(frozen=True)
class Shard:
    """A finished shard: file name, number of samples, size of the file and xxh3_64 of all its bytes."""

    name: str
    samples: int
    bytes: int
    xxh3: str


class ShardFile:
    """One tar on its way: samples go in by `add`; `commit` makes it visible under its name, `abort` leaves no trace."""

    def __init__(self, path: Path):
        self.path, self.samples, self.payload = path, 0, 0
        self.temporary = temporary_of(path)
        self._file = _Hashed(self.temporary)
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def add(self, encoded: dict) -> None:
        """encoded: what `encode_sample` returns. Nothing but names and bytes goes into the tar: no time, no owner."""
        for name in sorted(set(encoded) - {"__key__"}):
            member = tarfile.TarInfo(f"{encoded['__key__']}.{name}")
            member.size, member.mode = len(encoded[name]), 0o444
            self._tar.addfile(member, io.BytesIO(encoded[name]))
            self.payload += member.size
        self.samples += 1

    def commit(self) -> Shard:
        self._tar.close()
        self._file.close()
        self.temporary.rename(self.path)
        sync_folder(self.path.parent)
        return Shard(self.path.name, self.samples, self._file.at, self._file.digest.hexdigest())

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._file.file.close()
        with contextlib.suppress(OSError):
            self.temporary.unlink(missing_ok=True)


class _Hashed:
    """A file that is only ever written to, hashed on the way."""

    def __init__(self, path: Path):
        self.file, self.at, self.digest = path.open("wb"), 0, xxhash.xxh3_64()

    def write(self, data: bytes) -> int:
        self.file.write(data)
        self.digest.update(data)
        self.at += len(data)
        return len(data)

    def tell(self) -> int:
        return self.at

    def close(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


class Shards:
    """A row of shards, `directory / name(0)`, `name(1)`, …, written inside a `with` block.

    kind: a key of vstrain.data.kinds.KINDS; every sample is checked against it (kinds.SampleError).
    max_count, max_bytes: a shard is closed when it holds this many samples, or members of this many bytes.
    An exception inside the `with` block leaves finished shards (`done`) alone and removes the one being written.
    """

    def __init__(
        self,
        directory: Path,
        kind: str,
        name: Callable[[int], str],
        max_count: int | None = None,
        max_bytes: int = 400_000_000,
        jpeg_quality: int = 92,
    ):
        self.directory, self.kind, self.name = Path(directory), kind, name
        self.max_count, self.max_bytes, self.jpeg_quality = max_count, max_bytes, jpeg_quality
        self.count = 0
        self.done: list[Shard] = []
        self._open: ShardFile | None = None
        self._keys: set[str] = set()

    @property
    def paths(self) -> list[Path]:
        return [self.directory / shard.name for shard in self.done]

    def write(self, sample: dict) -> None:
        """A sample of Python values, or one that `encode_sample` has encoded already."""
        encoded = encode_sample(self.kind, sample, self.jpeg_quality)
        key = encoded["__key__"]
        if key in self._keys:
            raise kinds.SampleError(f"sample key {key!r} was already written to {self.name(0)}; keys must be unique")
        self._keys.add(key)
        if self._open is None:
            self._open = ShardFile(self.directory / self.name(len(self.done)))
        self._open.add(encoded)
        self.count += 1
        if self._open.samples == self.max_count or self._open.payload >= self.max_bytes:
            self._commit()

    def _commit(self) -> None:
        self.done.append(self._open.commit())
        self._open = None

    def __enter__(self):
        return self

    def __exit__(self, error_type, error, trace) -> None:
        try:
            if self._open is not None and error_type is None:
                self._commit()
        finally:
            if self._open is not None:
                self._open.abort()


class ShardWriter(Shards):
    """Writes `<directory>/<split>-000000.tar`, -000001.tar, … and their index when the `with` block ends well: the simple
    way for one process. Pipelines write through `data_pipelines.production`, which can be stopped and restarted."""

    def __init__(
        self,
        directory: Path,
        split: str,
        kind: str,
        max_count: int = 1000,
        max_bytes: int = 400_000_000,
        jpeg_quality: int = 92,
    ):
        super().__init__(
            directory, kind, lambda number: f"{split}-{number:06d}.tar", max_count, max_bytes, jpeg_quality
        )
        self.directory.mkdir(parents=True, exist_ok=True)

    def __exit__(self, error_type, error, trace) -> None:
        super().__exit__(error_type, error, trace)
        if self.done and error_type is None:
            Index.build(self.paths).save()
