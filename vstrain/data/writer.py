"""Writing shards: the one way in which any pipeline puts samples on disk.

A shard is a plain WebDataset tar. It is written under a temporary name, flushed and renamed, so a shard that can be seen
is whole. The same samples in the same order give the same bytes.
"""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

from vstrain.data import codecs, kinds
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


class ShardWriter:
    """Writes `<directory>/<split>-000000.tar`, -000001.tar, … and their index when the `with` block ends well.

    kind: a key of vstrain.data.kinds.KINDS; every sample is checked against it (kinds.SampleError).
    max_count, max_bytes: a shard is closed when it holds this many samples or bytes.
    An exception inside the `with` block leaves finished shards alone and removes the one being written.
    """

    def __init__(
        self,
        directory: Path,
        split: str,
        kind: str,
        max_count: int = 1000,
        max_bytes: int = 400_000_000,
        jpeg_quality: int = 92,
    ):
        self.directory, self.split, self.kind = Path(directory), split, kind
        self.max_count, self.max_bytes, self.jpeg_quality = max_count, max_bytes, jpeg_quality
        self.count = 0
        self.shards: list[Path] = []
        self._tar: tarfile.TarFile | None = None
        self._keys: set[str] = set()
        self.directory.mkdir(parents=True, exist_ok=True)

    def write(self, sample: dict) -> None:
        """A sample of Python values, or one that `encode_sample` has encoded already."""
        key = sample["__key__"]
        if key in self._keys:
            raise kinds.SampleError(f"sample key {key!r} was already written to split {self.split!r}")
        encoded = encode_sample(self.kind, sample, self.jpeg_quality)
        self._keys.add(key)
        if self._tar is None:
            self._open()
        for name in sorted(set(encoded) - {"__key__"}):
            data = encoded[name]
            self._bytes += len(data)
            member = tarfile.TarInfo(f"{key}.{name}")
            member.size, member.mode = len(data), 0o444
            self._tar.addfile(member, io.BytesIO(data))
        self.count += 1
        self._in_shard += 1
        if self._in_shard >= self.max_count or self._bytes >= self.max_bytes:
            self._commit()

    def _open(self) -> None:
        final = self.directory / f"{self.split}-{len(self.shards):06d}.tar"
        self._temporary = final.with_name(f".{final.name}.tmp")
        self._file = self._temporary.open("wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._in_shard = self._bytes = 0
        self.shards.append(final)

    def _commit(self) -> None:
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.rename(self.shards[-1])
        self._tar = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, error_type, error, trace) -> None:
        if error_type is not None:
            if self._tar is not None:
                self._file.close()
                self._temporary.unlink(missing_ok=True)
            return
        if self._tar is not None:
            self._commit()
        if self.shards:
            Index.build(self.shards).save()
