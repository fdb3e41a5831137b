"""Which source it is: by what is there, never by asking."""

from __future__ import annotations

import glob
import re
from pathlib import Path

import xxhash

from data_pipelines.convert.config import Config
from data_pipelines.convert.sources import (
    Parquet,
    Part,
    Saved,
    Source,
    Stream,
    Tars,
    forget,
    open_saved,
    open_streams,
)
from data_pipelines.depth_corpus.pairs import SPLITS
from data_pipelines.depth_corpus.saved import is_saved
from data_pipelines.production.plan import Rejected
from vstrain.config.problems import InputError
from vstrain.data import storage
from vstrain.data.index import Index

STATS = "_stats.json"  # what img2dataset and video2dataset write when a shard is finished
EXPECTED = "expected a folder saved by datasets, .tar shards, .parquet files, or a name on the hub with streaming=true"


def find(config: Config) -> Source:
    forget()
    if config.streaming:
        return _find_stream(config)
    sources = config.sources
    path = Path(sources[0]).expanduser() if len(sources) == 1 else None
    if path and path.is_dir():
        if is_saved(path):
            return _find_saved(path)
        if tars := sorted(path.rglob("*.tar")):
            return _find_tars(str(path), [str(tar) for tar in tars])
        if files := sorted(path.rglob("*.parquet")):
            return _find_parquet(str(path), files)
        raise InputError(f"{path}: holds no data set that can be read; {EXPECTED}")
    if path and path.suffix == ".parquet" and path.is_file():
        return _find_parquet(str(path), [path])
    if all(
        storage.is_remote(one) or glob.has_magic(one) or one.split("?")[0].endswith((".tar", "}")) for one in sources
    ):
        return _find_tars(", ".join(sources), storage.expand(sources))
    raise InputError(f"{', '.join(sources)}: no such source; {EXPECTED}")


def _find_saved(path: Path) -> Source:
    tables = open_saved(str(path))
    columns = _common([table.column_names for table in tables.values()])
    parts = tuple(Part(name, len(table), SPLITS.get(name.lower())) for name, table in tables.items())
    prints = "".join(table._fingerprint for table in tables.values())
    return Saved(str(path), parts, columns, xxhash.xxh3_64_hexdigest(prints.encode()))


def _find_parquet(name: str, files: list[Path]) -> Source:
    import pyarrow.parquet as parquet

    parts, listed, sizes = [], [], []
    for path in files:
        try:
            about = parquet.ParquetFile(path)
        except Exception as error:  # pyarrow raises several types
            raise InputError(f"{path}: is not a parquet file ({error}); remove it or write it again") from error
        parts.append(Part(str(path), about.metadata.num_rows, _split_of(path.name)))
        listed.append(about.schema_arrow.names)
        sizes.append(f"{path.name} {path.stat().st_size}")
    return Parquet(name, tuple(parts), _common(listed), xxhash.xxh3_64_hexdigest("\n".join(sizes).encode()))


def _find_tars(name: str, urls: list[str]) -> Source:
    """Shards that img2dataset or video2dataset has not finished are left out, if it has finished any."""
    finished = {url for url in urls if not storage.is_remote(url) and Path(url[: -len(".tar")] + STATS).is_file()}
    rejected = tuple(
        Rejected(
            url, "unfinished shard", f"{url}: has no {STATS} as others have; let the download end and convert anew"
        )
        for url in urls
        if finished and url not in finished
    )
    urls = [url for url in urls if not finished or url in finished]
    index = Index.open(urls)
    rejected += tuple(
        Rejected(f"{url} at {offset}", "damaged tar", f"{url}: at byte {offset}: {reason}")
        for url, offset, reason in index.faults
    )
    counts = (index.shard_starts[1:] - index.shard_starts[:-1]).tolist()
    parts = tuple(Part(url, rows, _split_of(url)) for url, rows in zip(urls, counts, strict=True))
    columns = {member: None for schema in index.schemas for member in schema}
    return Tars(name, parts, tuple(columns), index.fingerprint, rejected)


def _find_stream(config: Config) -> Source:
    name = config.sources[0]
    if len(config.sources) > 1:
        raise InputError(
            f"source: streaming=true takes one data set, not {len(config.sources)}; convert them one by one"
        )
    address = f"{name}:{config.subset}" if config.subset else name
    streams = open_streams(address)
    parts, listed = [], []
    for split, stream in streams.items():
        known = stream.info.splits and stream.info.splits.get(split)
        rows = min(filter(None, (known and known.num_examples, config.limit)), default=None)
        if rows is None:
            raise InputError(f"{name}: does not say how many rows its {split} has; give limit=, the number to take")
        parts.append(Part(split, rows, SPLITS.get(split.lower())))
        listed.append(stream.column_names or list(next(iter(stream), {})))
    return Stream(address, tuple(parts), _common(listed), str([(part.name, part.rows) for part in parts]))


def _common(listed: list[list[str]]) -> tuple[str, ...]:
    """The columns that all parts have."""
    return tuple(name for name in (listed[0] if listed else []) if all(name in names for names in listed))


def _split_of(name: str) -> str | None:
    """The split in a file name such as train-00000.tar, also in capitals."""
    words = re.split(r"[^a-z]+", name.rpartition("/")[2].lower())
    return SPLITS.get(words[0])
