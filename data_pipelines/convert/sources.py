"""Where rows come from. A source knows its columns and gives the values of one row; opened files stay in each process.

All sources are small, picklable descriptions."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from data_pipelines.production.plan import Rejected
from vstrain.config.problems import InputError
from vstrain.data.index import Index
from vstrain.data.reader import DamagedSample, Reader


class BadRow(Exception):
    """A row that cannot be read: reason, and one sentence."""

    def __init__(self, reason: str, why: str):
        super().__init__(why)
        self.reason = reason


@dataclass(frozen=True)
class Part:
    """Consecutive rows: a split, a file or a shard. split: train or val, None where the source does not say."""

    name: str
    rows: int
    split: str | None


@dataclass(frozen=True)
class Source:
    name: str
    parts: tuple[Part, ...]
    columns: tuple[str, ...]
    fingerprint: str  # changes with the content, as far as that is cheap to know
    rejected: tuple[Rejected, ...] = ()

    @cached_property
    def ends(self) -> list[int]:
        return list(accumulate(part.rows for part in self.parts))

    def place(self, row: int) -> tuple[Part, int]:
        """The part that holds a row, and the row's number in it."""
        at = bisect_right(self.ends, row)
        return self.parts[at], row - (self.ends[at] - self.parts[at].rows)

    def keys(self) -> list[str]:
        return [f"row_{row:08d}" for row in range(self.ends[-1] if self.parts else 0)]

    def folder(self) -> Path:
        """What relative paths in cells are relative to."""
        return Path(self.name)

    def get(self, row: int, columns: list[str]) -> dict[str, Any]:
        raise NotImplementedError


class Saved(Source):
    """A folder that Hugging Face `datasets` saved with save_to_disk."""

    def get(self, row: int, columns: list[str]) -> dict[str, Any]:
        import pyarrow as pa

        part, number = self.place(row)
        try:
            return _saved_table(self.name, part.name, tuple(columns))[number]
        except pa.ArrowException as error:
            raise BadRow("damaged file", f"{self.name}: row {row} cannot be read ({error}); save it again") from error


class Parquet(Source):
    """Parquet files; a row group is held in memory at a time."""

    def folder(self) -> Path:
        return Path(self.parts[0].name).parent

    def get(self, row: int, columns: list[str]) -> dict[str, Any]:
        part, number = self.place(row)
        starts = _group_starts(part.name)
        group = bisect_right(starts, number) - 1
        table = _group(part.name, group, tuple(columns))
        return table.slice(number - starts[group], 1).to_pylist()[0]


class Tars(Source):
    """WebDataset shards. Columns are the members; values are bytes."""

    def keys(self) -> list[str]:
        """The samples' own keys, without dots and slashes; with the shard's name in front where they repeat."""
        index = _reader(self.parts).index
        keys = [re.sub(r"[^\w-]", "_", index.key(n)) for n in range(len(index))]
        if len(set(keys)) < len(keys):
            stems = [re.sub(r"[^\w-]", "_", Path(url).stem) for url in index.shards]
            keys = [f"{stems[shard]}_{key}" for shard, key in zip(index.shard.tolist(), keys, strict=True)]
        return keys if len(set(keys)) == len(keys) else [f"{n:08d}_{key}" for n, key in enumerate(keys)]

    def get(self, row: int, columns: list[str]) -> dict[str, Any]:
        sample = _reader(self.parts).read(row)
        try:
            return {column: sample.raw(column) if column in sample else None for column in columns}
        except DamagedSample as damage:
            raise BadRow("damaged sample", str(damage)) from damage


class Stream(Source):
    """A data set that `datasets` streams; name, and subset after a colon."""

    def get(self, row: int, columns: list[str]) -> dict[str, Any]:
        part, number = self.place(row)
        return _cursor(self.name, part.name, tuple(columns)).get(number)


# ---- opening, once in each process ----------------------------------------------------------------------------------


def _datasets():
    try:
        import datasets
    except ImportError as error:
        raise InputError("this source needs the package datasets: pip install datasets") from error
    return datasets


@lru_cache(maxsize=2)
def open_saved(folder: str) -> dict[str, Any]:
    datasets = _datasets()
    try:
        loaded = datasets.load_from_disk(folder)
    except Exception as error:  # datasets raises many types
        raise InputError(f"{folder}: datasets cannot open it ({error}); save it again with save_to_disk") from error
    tables = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    return {name: _undecoded(table) for name, table in tables.items()}


@lru_cache(maxsize=4)
def _saved_table(folder: str, split: str, columns: tuple[str, ...]):
    return open_saved(folder)[split].select_columns(list(columns))


def _undecoded(table):
    """Pictures and videos as the bytes that are stored."""
    datasets = _datasets()
    for name, feature in (table.features or {}).items():
        if isinstance(feature, datasets.Image | datasets.Video):
            table = table.cast_column(name, type(feature)(decode=False))
    return table


@lru_cache(maxsize=8)
def _group_starts(path: str) -> list[int]:
    import pyarrow.parquet as parquet

    about = parquet.ParquetFile(path).metadata
    return list(accumulate((about.row_group(n).num_rows for n in range(about.num_row_groups)), initial=0))[:-1]


@lru_cache(maxsize=1)
def _group(path: str, group: int, columns: tuple[str, ...]):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        return parquet.ParquetFile(path).read_row_group(group, columns=list(columns))
    except pa.ArrowException as error:
        raise BadRow(
            "damaged file", f"{path}: row group {group} cannot be read ({error}); write the file again"
        ) from error


@lru_cache(maxsize=2)
def _reader(parts: tuple[Part, ...]) -> Reader:
    return Reader(Index.open([part.name for part in parts]))


@lru_cache(maxsize=2)
def open_streams(address: str) -> dict[str, Any]:
    datasets = _datasets()
    name, _, subset = address.partition(":")
    try:
        loaded = datasets.load_dataset(name, subset or None, streaming=True)
        return {split: _undecoded(stream) for split, stream in loaded.items()}
    except Exception as error:  # datasets raises many types: no network, no such name, several configurations
        reason = " ".join(str(error).split())
        raise InputError(
            f"{name}: datasets cannot stream it ({reason}); check the name, subset= and the network"
        ) from error


class _Cursor:
    """Rows of a stream, which are cheap one after the other; a jump goes through what lies before."""

    def __init__(self, stream):
        self.stream, self.at, self.rows = stream, 0, iter(stream)

    def get(self, row: int) -> dict[str, Any]:
        if row != self.at:
            self.at, self.rows = row, self._from(row)
        self.at += 1
        found = next(self.rows, None)
        if found is None:
            self.at = -1
            raise BadRow("no such row", f"row {row} is beyond the end of the stream; a smaller limit= leaves it out")
        return found

    def _from(self, row: int) -> Iterator[dict[str, Any]]:
        return iter(self.stream.skip(row))


@lru_cache(maxsize=2)
def _cursor(address: str, split: str, columns: tuple[str, ...]) -> _Cursor:
    return _Cursor(open_streams(address)[split].select_columns(list(columns)))


def forget() -> None:
    """Close what an earlier run in this process opened: other data may lie there now."""
    for opened in (open_saved, _saved_table, _group_starts, _group, _reader, open_streams, _cursor):
        opened.cache_clear()
