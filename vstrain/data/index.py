"""The sidecar index of a data set: where every member of every sample lies, its hash, and how large its picture is.

One packed file beside the shards: an 8-byte magic, the length of a JSON header, the header, then raw arrays that are
memory-mapped, so that all processes of a machine share one copy. 15 million samples of 3 members take 1.3 GB. Nothing
needs the file to exist: it is rebuilt in one pass when it is missing or does not match the shards.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xxhash

from vstrain.data import codecs, storage, tar
from vstrain.data.problems import DataError

MAGIC = b"VSTRIDX2"
log = logging.getLogger("vstrain")


class Index:
    """shards: addresses; per sample n: shard[n], key(n), width[n], height[n] (pixels), frames[n] (0: unknown);
    per member m in first[n]:first[n + 1]: block[m] (offset in the tar in blocks of 512 bytes), size[m] (bytes),
    hash[m] (xxh3_64). schema[n] numbers the list of member names of sample n in `schemas`.
    faults: (shard address, offset, reason) of what could not be read when the index was built."""

    ARRAYS = {
        "shard": "<u4",
        "schema": "<u2",
        "width": "<u2",
        "height": "<u2",
        "frames": "<u2",
        "first": "<u8",
        "key_end": "<u8",
        "keys": "u1",
        "block": "<u4",
        "size": "<u4",
        "hash": "<u8",
    }

    def __init__(
        self,
        shards: list[str],
        sizes: list[int],
        schemas: list[list[str]],
        arrays: dict[str, np.ndarray],
        faults: list[tuple[str, int, str]],
        fingerprint: str | None = None,
    ):
        self.shards, self.sizes, self.schemas, self.arrays, self.faults = shards, sizes, schemas, arrays, faults
        self.shard, self.schema, self.first = arrays["shard"], arrays["schema"], arrays["first"]
        self.block, self.size, self.hash = arrays["block"], arrays["size"], arrays["hash"]
        self.width, self.height, self.frames = arrays["width"], arrays["height"], arrays["frames"]
        self._fingerprint = fingerprint
        self._path: Path | None = None

    def __len__(self) -> int:
        return len(self.shard)

    def key(self, n: int) -> str:
        ends = self.arrays["key_end"]
        return self.arrays["keys"][int(ends[n - 1]) if n else 0 : int(ends[n])].tobytes().decode("utf-8", "replace")

    def members(self, n: int) -> dict[str, tuple[int, int, int]]:
        """member name -> (offset in the shard, size, hash) of sample n."""
        first = int(self.first[n])
        names = self.schemas[int(self.schema[n])]
        span = slice(first, first + len(names))
        places = zip(self.block[span].tolist(), self.size[span].tolist(), self.hash[span].tolist(), strict=True)
        return {
            name: (block * tar.BLOCK, size, digest) for name, (block, size, digest) in zip(names, places, strict=True)
        }

    @property
    def shard_starts(self) -> np.ndarray:
        """int64 (shards + 1,): samples shard_starts[s]:shard_starts[s + 1] lie in shard s."""
        return np.searchsorted(self.shard, np.arange(len(self.shards) + 1)).astype(np.int64)

    @property
    def fingerprint(self) -> str:
        """Hash of every member and key: the same data in the same order, wherever it lies."""
        if self._fingerprint is None:
            digest = xxhash.xxh3_64()
            for name in ("hash", "key_end", "keys"):
                digest.update(np.ascontiguousarray(self.arrays[name]))
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def lacking(self, names: list[str]) -> np.ndarray:
        """Ids of the samples that do not have one of the members `names` ("jpg|png" names alternatives)."""
        bad = [
            number
            for number, schema in enumerate(self.schemas)
            if not all(set(name.split("|")) & set(schema) for name in names)
        ]
        return np.flatnonzero(np.isin(self.schema, bad)) if bad else np.empty(0, np.int64)

    # ---- making -----------------------------------------------------------------------------------------------------

    @classmethod
    def build(cls, urls: list, progress=None) -> Index:
        """Read every shard once. `progress(shards done, of how many)`."""
        parts = []
        for number, url in enumerate(urls):
            parts.append(scan(str(url)))
            if progress:
                progress(number + 1, len(urls))
        return cls.merge(parts)

    @classmethod
    def merge(cls, parts: list[Index]) -> Index:
        """One index of several data sets, the samples in the order given."""
        schemas: dict[tuple[str, ...], int] = {}
        columns: dict[str, list[np.ndarray]] = {name: [] for name in cls.ARRAYS}
        shards, faults, sizes, members, key_bytes = [], [], [], 0, 0
        for part in parts:
            numbers = [schemas.setdefault(tuple(schema), len(schemas)) for schema in part.schemas]
            shifted = {
                "shard": part.shard + np.uint32(len(shards)),
                "schema": np.array(numbers or [0], np.uint16)[part.schema],
                "first": part.first + np.uint64(members),
                "key_end": part.arrays["key_end"] + np.uint64(key_bytes),
            }
            for name in cls.ARRAYS:
                columns[name].append(shifted.get(name, part.arrays[name]))
            shards, sizes, faults = shards + part.shards, sizes + part.sizes, faults + part.faults
            members, key_bytes = members + len(part.size), key_bytes + len(part.arrays["keys"])
        arrays = {
            name: np.concatenate(values).astype(cls.ARRAYS[name], copy=False)
            if values
            else np.empty(0, cls.ARRAYS[name])
            for name, values in columns.items()
        }
        return cls(shards, sizes, [list(schema) for schema in schemas], arrays, faults)

    # ---- saving and opening -------------------------------------------------------------------------------------------

    def save(self, path: Path | None = None) -> Path:
        """Write the index to `path`, by default the sidecar beside the first shard, atomically."""
        path = path or Path(sidecar(self.shards))
        header = {
            "fingerprint": self.fingerprint,
            "schemas": self.schemas,
            "shards": [[_base(url), size] for url, size in zip(self.shards, self.sizes, strict=True)],
            "faults": [[_base(url), *rest] for url, *rest in self.faults],
            "arrays": {name: len(array) for name, array in self.arrays.items()},
        }
        text = json.dumps(header, sort_keys=True).encode()
        text += b" " * (-(len(text) + 24) % 8)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(MAGIC + len(text).to_bytes(8, "little") + xxhash.xxh3_64_digest(text) + text)
                for name in self.ARRAYS:
                    array = np.ascontiguousarray(self.arrays[name])
                    file.write(array)
                    file.write(b"\0" * (-array.nbytes % 8))
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: Path, urls: list[str]) -> Index:
        """The index saved at `path`, its shards found at `urls`. Raises DataError where it is damaged or of other shards."""
        path = Path(path)
        raw = np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.empty(0, np.uint8)
        length = int.from_bytes(raw[8:16].tobytes(), "little")
        text = raw[24 : 24 + length].tobytes()
        if raw[:8].tobytes() != MAGIC or xxhash.xxh3_64_digest(text) != raw[16:24].tobytes():
            raise DataError(f"{path}: is not a whole vstrain index; delete it, it is made again from the shards")
        header, at, arrays = json.loads(text), 24 + length, {}
        for name, dtype in cls.ARRAYS.items():
            nbytes = header["arrays"][name] * np.dtype(dtype).itemsize
            arrays[name] = raw[at : at + nbytes]
            if len(arrays[name]) != nbytes:
                raise DataError(f"{path}: is cut off; delete it, it is made again from the shards")
            arrays[name] = arrays[name].view(dtype)
            at += nbytes + -nbytes % 8
        names = [name for name, _ in header["shards"]]
        if names != [_base(url) for url in urls]:
            raise DataError(
                f"{path}: is the index of {len(names)} other shards ({', '.join(names[:2])} …), not of "
                f"{', '.join(map(_base, urls[:2]))} …; name the shards it belongs to, or make it again with vstrain data index"
            )
        where = dict(zip(names, urls, strict=True))
        faults = [(where[name], offset, reason) for name, offset, reason in header["faults"]]
        index = cls(
            list(urls), [size for _, size in header["shards"]], header["schemas"], arrays, faults, header["fingerprint"]
        )
        index._path = path
        return index

    @staticmethod
    def shard_names(path: Path) -> list[str]:
        """File names of the shards that the index saved at `path` describes; empty when it is damaged."""
        with Path(path).open("rb") as file:
            head = file.read(24)
            length = min(int.from_bytes(head[8:16], "little"), os.fstat(file.fileno()).st_size)
            text = file.read(length) if head[:8] == MAGIC else b""
        if len(head) < 24 or xxhash.xxh3_64_digest(text) != head[16:24]:
            return []
        return [name for name, _ in json.loads(text)["shards"]]

    @classmethod
    def saved(cls, urls: list) -> Index | None:
        """The index beside these shards as it was saved, whether or not it still describes them; None if there is none."""
        urls = [str(url) for url in urls]
        path = _beside(urls) or _cached(urls)
        return cls.load(path, urls) if path is not None else None

    @classmethod
    def open(cls, urls: list, progress=None) -> Index:
        """The saved index when it matches the shards, else a new one, saved beside them, or where that is not allowed in
        ~/.cache/vstrain.

        A shard that lost its end since keeps its index, so that every lost sample can be named; a shard of another
        size whose first sample differs was written anew, and the index is rebuilt."""
        urls = [str(url) for url in urls]
        for path in filter(None, (_beside(urls), _cached(urls))):
            try:
                index = cls.load(path, urls)
                if index.describes_shards():
                    return index
            except DataError as error:
                log.warning("%s", error)
        index = cls.build(urls, progress)
        for place in (
            [_cached_sidecar(urls)] if storage.is_remote(urls[0]) else [Path(sidecar(urls)), _cached_sidecar(urls)]
        ):
            with contextlib.suppress(OSError):  # a folder where we may not write, or a full disk
                return cls.load(index.save(place), urls)
        return index

    def describes_shards(self) -> bool:
        """Whether this index still tells the truth about its shards, apart from damage and from ends that are gone.

        A shard of another size, or one changed after the index was written, is looked at in a few places: where most of
        them hold what the index says it is the same shard, damaged perhaps; else it was written anew."""
        written = self._path.stat().st_mtime_ns if self._path else 0
        for number, (url, size) in enumerate(zip(self.shards, storage.stat_all(self.shards), strict=True)):
            newer = not storage.is_remote(url) and Path(url).stat().st_mtime_ns > written
            if size == self.sizes[number] and not newer:
                continue
            if size > self.sizes[number] or not self._same_content(number, size):
                return False
            if size < self.sizes[number]:
                log.warning(
                    "%s: %d of %d bytes are there; the samples beyond are damaged", url, size, self.sizes[number]
                )
        return True

    def _same_content(self, number: int, size: int, probes: int = 5) -> bool:
        """Whether most of `probes` members of a shard, of those within its first `size` bytes, have their hash."""
        first, last = self.shard_starts[number : number + 2]
        reader, agree = storage.Storage(), []
        for n in np.unique(np.linspace(first, last - 1, probes).astype(int)) if last > first else ():
            offset, length, digest = next(iter(self.members(int(n)).values()))
            if offset + length <= size:
                found = reader.read(self.shards[number], offset, length)
                agree.append(xxhash.xxh3_64_intdigest(found) == digest)
        return 2 * sum(agree) > len(agree)

    def __getstate__(self) -> dict:
        """A saved index travels to other processes as its path: they map the same memory."""
        if self._path is not None:
            return {"path": self._path, "urls": self.shards}
        return self.__dict__

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(Index.load(state["path"], state["urls"]).__dict__ if "path" in state else state)


def scan(url: str) -> Index:
    """The index of one shard. A sample is what shares a key: the name up to the first dot of its last part."""
    faults: list[tuple[str, int, str]] = []
    samples: dict[str, dict[str, tuple[int, int, int]]] = {}
    sizes: dict[str, tuple[int, int, int]] = {}
    with contents(url) as data:
        for found in tar.walk(data, url):
            if isinstance(found, tar.Fault):
                faults.append((url, found.offset, found.reason))
                continue
            key, name = split_name(found.name)
            if not name:
                continue
            members = samples.setdefault(key, {})
            if name in members:
                faults.append((url, found.offset, f"{found.name} is there twice; the second one is left out"))
                continue
            content = data[found.offset : found.offset + found.size]
            members[name] = (found.offset // tar.BLOCK, found.size, xxhash.xxh3_64_intdigest(content))
            measured = codecs.picture_size(name, content)
            if measured > sizes.get(key, (0, 0, 0)):
                sizes[key] = measured
        total = len(data)
    return _pack(url, total, samples, sizes, faults)


def split_name(path: str) -> tuple[str, str]:
    """(key, member name) of a file in a shard; the name is empty for a file that belongs to no sample."""
    folder, slash, base = path.rpartition("/")
    stem, _, name = base.partition(".")
    return folder + slash + stem, name.lower() if stem else ""


def _pack(url: str, total: int, samples: dict, sizes: dict, faults: list) -> Index:
    schemas: dict[tuple[str, ...], int] = {}
    rows: dict[str, list] = {name: [] for name in Index.ARRAYS if name != "keys"}
    keys = []
    for key, members in samples.items():
        keys.append(key.encode("utf-8", "surrogateescape"))
        rows["shard"].append(0)
        rows["schema"].append(schemas.setdefault(tuple(members), len(schemas)))
        rows["first"].append(len(rows["block"]))
        rows["key_end"].append(len(keys[-1]) + (rows["key_end"][-1] if rows["key_end"] else 0))
        frames, height, width = sizes.get(key, (0, 0, 0))
        for name, value in (("frames", frames), ("height", height), ("width", width)):
            rows[name].append(min(value, 65535))
        for block, size, digest in members.values():
            if size >= 1 << 32:
                raise DataError(
                    f"{url}: sample {key} has a member of {size} bytes; at most 4 GB are possible, cut it up"
                )
            rows["block"].append(block)
            rows["size"].append(size)
            rows["hash"].append(digest)
    arrays = {name: np.array(values, Index.ARRAYS[name]) for name, values in rows.items()}
    arrays["keys"] = np.frombuffer(b"".join(keys), np.uint8)
    return Index([url], [total], [list(schema) for schema in schemas], arrays, faults)


@contextlib.contextmanager
def contents(url: str) -> Iterator:
    """The bytes of a shard: mapped when it is a local file, downloaded when it is not."""
    if storage.is_remote(url):
        yield storage.get(url)
        return
    try:
        with Path(url).open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                yield b""
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                yield mapped
    except OSError as error:
        raise DataError(
            f"{url}: cannot be read ({error.strerror}); allow it or bring it back, or give other shards"
        ) from error


def sidecar(urls: list) -> str:
    """Where the index of these shards lies: a hidden file beside the first of them."""
    urls = [str(url) for url in urls]
    names = "\n".join(_base(url) for url in urls)
    return f"{urls[0].rpartition('/')[0] or '.'}/.{xxhash.xxh3_64_hexdigest(names.encode())}.vstrain-index"


def _base(url: str) -> str:
    return str(url).rpartition("/")[2]


def _beside(urls: list[str]) -> Path | None:
    """The index beside the first shard, if there is one; that of remote shards is fetched once."""
    if not storage.is_remote(urls[0]):
        path = Path(sidecar(urls))
        return path if path.is_file() else None
    path = _cached_sidecar(urls)
    if not path.is_file():
        try:
            storage.write(str(path), storage.get(sidecar(urls)))
        except storage.StorageError:
            return None
    return path


def _cached(urls: list[str]) -> Path | None:
    path = _cached_sidecar(urls)
    return path if not storage.is_remote(urls[0]) and path.is_file() else None


def _cached_sidecar(urls: list[str]) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "vstrain" / "index"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{xxhash.xxh3_64_hexdigest(chr(10).join(urls).encode())}.vstrain-index"


def check_fields(index: Index, names: list[str], share: float, what: str) -> None:
    """Raise DataError when more than `share` of the samples lack one of the members `names` ("jpg|png": either)."""
    bad = index.lacking(names)
    if len(bad) > share * len(index):
        schema = index.schemas[int(index.schema[bad[0]])]
        name = next(name for name in names if not set(name.split("|")) & set(schema))
        seen = Counter(index.schema[bad].tolist()).most_common(1)[0][0]
        raise DataError(
            f"{what}: {len(bad)} of {len(index)} samples lack the member {name.replace('|', ' or ')} (the first: "
            f"{index.key(int(bad[0]))} in {index.shards[int(index.shard[bad[0]])]}, which has "
            f"{', '.join(index.schemas[seen])}); give shards of one kind"
        )
