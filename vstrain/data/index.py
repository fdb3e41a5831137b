"""The sidecar index of a set of shards: where every member of every sample lies, and a hash of its bytes.

One packed file beside the shards: an 8-byte magic, the length of a JSON header, the header, then raw arrays that are
memory-mapped. Nothing needs it to exist: it is rebuilt in one pass when it is missing or does not match the shards.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import tarfile
from pathlib import Path

import braceexpand
import numpy as np
import xxhash

from vstrain.config.problems import InputError

MAGIC = b"VSTRIDX1"


class DataError(InputError):
    """Bad shards: which file, what was expected, what to do."""


def expand(urls: list[str]) -> list[Path]:
    """Shard paths of a list of paths with globs and {000..012} braces, in the order given, globs sorted."""
    paths: list[Path] = []
    for url in urls:
        for pattern in braceexpand.braceexpand(str(url)):
            found = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207
            if not found:
                raise DataError(f"{pattern}: no shard matches this pattern; give the path of existing .tar files")
            paths += map(Path, found)
    if missing := [path for path in paths if not path.is_file()]:
        raise DataError(f"{missing[0]}: no such shard; give the path of existing .tar files")
    if not paths:
        raise DataError("the list of shards is empty; give the path of at least one .tar file")
    return paths


class Index:
    """shards: list of paths; fields: member names; per sample n: shard[n], key, hash[n] (xxh3_64 over its members in
    tar order) and members first[n]:first[n + 1] with field[m], offset[m], size[m] (bytes in the tar)."""

    ARRAYS = {
        "shard": "<u4",
        "hash": "<u8",
        "first": "<u8",
        "key_end": "<u8",
        "keys": "u1",
        "field": "<u2",
        "offset": "<u8",
        "size": "<u8",
    }

    def __init__(self, shards: list[Path], fields: list[str], arrays: dict[str, np.ndarray]):
        self.shards, self.fields = shards, fields
        self.arrays = arrays
        self.shard, self.hash, self.first = arrays["shard"], arrays["hash"], arrays["first"]
        self.field, self.offset, self.size = arrays["field"], arrays["offset"], arrays["size"]

    def __len__(self) -> int:
        return len(self.shard)

    def key(self, n: int) -> str:
        ends = self.arrays["key_end"]
        return self.arrays["keys"][int(ends[n - 1]) if n else 0 : int(ends[n])].tobytes().decode()

    def members(self, n: int) -> list[tuple[str, int, int]]:
        """(member name, offset, size) of sample n."""
        span = slice(int(self.first[n]), int(self.first[n + 1]))
        return [
            (self.fields[f], int(o), int(s))
            for f, o, s in zip(self.field[span], self.offset[span], self.size[span], strict=True)
        ]

    @property
    def fingerprint(self) -> str:
        """Hash of every record and its key: the same data in the same order, wherever it lies."""
        digest = xxhash.xxh3_64()
        for name in ("hash", "key_end", "keys"):
            digest.update(np.ascontiguousarray(self.arrays[name]).tobytes())
        return digest.hexdigest()

    # ---- making, saving, opening ----------------------------------------------------------------------------------

    @classmethod
    def build(cls, shards: list[Path]) -> Index:
        """Read every shard once. A sample is a run of members with one key (the name up to its first dot)."""
        fields: dict[str, int] = {}
        rows = {name: [] for name in ("shard", "hash", "first", "key_end", "field", "offset", "size")}
        keys, key_bytes = [], 0
        for number, path in enumerate(shards):
            last, digest = None, xxhash.xxh3_64()
            with path.open("rb") as file:
                for member in _members(path, file):
                    folder, _, base = member.name.rpartition("/")
                    stem, _, name = base.partition(".")
                    key = f"{folder}/{stem}" if folder else stem
                    if key != last:
                        if last is not None:
                            rows["hash"].append(digest.intdigest())
                        last, digest = key, xxhash.xxh3_64()
                        rows["shard"].append(number)
                        rows["first"].append(len(rows["field"]))
                        keys.append(key.encode())
                        key_bytes += len(keys[-1])
                        rows["key_end"].append(key_bytes)
                    rows["field"].append(fields.setdefault(name, len(fields)))
                    rows["offset"].append(member.offset_data)
                    rows["size"].append(member.size)
                    file.seek(member.offset_data)
                    digest.update(file.read(member.size))
                if last is not None:
                    rows["hash"].append(digest.intdigest())
        rows["first"].append(len(rows["field"]))
        arrays = {name: np.array(values, cls.ARRAYS[name]) for name, values in rows.items()}
        arrays["keys"] = np.frombuffer(b"".join(keys), np.uint8)
        return cls(list(shards), list(fields), arrays)

    def save(self) -> Path:
        """Write the sidecar beside the first shard, atomically."""
        header = {
            "fields": self.fields,
            "shards": _stat(self.shards),
            "arrays": {name: len(array) for name, array in self.arrays.items()},
        }
        text = json.dumps(header, sort_keys=True).encode()
        text += b" " * (-(len(text) + 16) % 8)
        path = sidecar(self.shards)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            file.write(MAGIC + len(text).to_bytes(8, "little") + text)
            for name in self.ARRAYS:
                data = self.arrays[name].tobytes()
                file.write(data + b"\0" * (-len(data) % 8))
        temporary.rename(path)
        return path

    @classmethod
    def open(cls, shards: list[Path]) -> Index:
        """The saved index when it matches the shards (names and sizes), else a new one, saved where that is allowed."""
        path = sidecar(shards)
        if path.is_file():
            raw = np.memmap(path, np.uint8, mode="r")
            if raw[:8].tobytes() == MAGIC:
                at = 16 + int.from_bytes(raw[8:16].tobytes(), "little")
                header = json.loads(raw[16:at].tobytes())
                if header["shards"] == _stat(shards):
                    arrays = {}
                    for name, dtype in cls.ARRAYS.items():
                        nbytes = header["arrays"][name] * np.dtype(dtype).itemsize
                        arrays[name] = raw[at : at + nbytes].view(dtype)
                        at += nbytes + -nbytes % 8
                    return cls(list(shards), header["fields"], arrays)
        index = cls.build(shards)
        with contextlib.suppress(PermissionError):
            index.save()
        return index


def sidecar(shards: list[Path]) -> Path:
    names = "\n".join(path.name for path in shards)
    return shards[0].parent / f".{xxhash.xxh3_64_hexdigest(names.encode())}.vstrain-index"


def _stat(shards: list[Path]) -> list[list]:
    return [[path.name, path.stat().st_size] for path in shards]


def _members(path: Path, file):
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isfile():
                    yield member
    except tarfile.TarError as error:
        raise DataError(f"{path}: not a readable tar file ({error}); write it again") from error
