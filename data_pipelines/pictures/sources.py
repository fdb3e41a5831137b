"""Where pictures lie, and their bytes: files, members of tar archives, rows of parquet files, entries of LMDB databases."""

from __future__ import annotations

import mmap
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

import xxhash

from data_pipelines.depth_corpus.folder import walk
from data_pipelines.production.plan import Rejected
from vstrain.config.problems import InputError
from vstrain.data import tar

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
DATABASE = "data.mdb"


@dataclass(frozen=True, slots=True)
class Picture:
    """name: path below the source, see sets.py. place: None for a file; (offset, bytes) in a tar; (row group, row, column) in a
    parquet file; the key in a database."""

    name: str
    file: str
    place: tuple | bytes | None = None
    key: str = ""

    @property
    def block(self) -> str:
        """Pictures that are cheap to read together: a row group. Any other picture is its own."""
        grouped = isinstance(self.place, tuple) and len(self.place) == 3
        return f"{self.file}:{self.place[0]}" if grouped else self.name

    @property
    def where(self) -> str:
        return self.file if self.place is None else f"{self.file}: {self.name}"


@dataclass
class Walked:
    pictures: list[Picture]
    rejected: list[Rejected]
    other: Counter  # endings of files that are no pictures


def walk_sources(sources: list[str], column: str | None) -> Walked:
    """Everything that can be a picture, in the order of the names. Raises InputError for what cannot be walked."""
    walked = Walked([], [], Counter())
    for source in map(lambda one: Path(one).expanduser(), sources):
        if not source.exists():
            raise InputError(f"{source}: no such source; expected a folder, a picture, a .tar or a .parquet file")
        if source.is_file():
            _add(source, source.name, column, walked)
            continue
        for name in walk(source):
            _add(source / name, f"{source.name}/{name}" if len(sources) > 1 else name, column, walked)
    walked.pictures = _keyed(sorted(walked.pictures, key=lambda picture: (picture.name, picture.file)))
    return walked


def _keyed(pictures: list[Picture]) -> list[Picture]:
    """Keys are the names without dots and slashes, with a hash where two would be the same."""
    keys = [re.sub(r"[^\w-]", "_", _stem(picture.name)).strip("_") or "picture" for picture in pictures]
    count = Counter(keys)
    hashed = (xxhash.xxh3_64_hexdigest(picture.name.encode("utf-8", "replace"))[:8] for picture in pictures)
    return [
        replace(picture, key=key if count[key] == 1 else f"{key}-{digest}")
        for picture, key, digest in zip(pictures, keys, hashed, strict=True)
    ]


def _add(path: Path, name: str, column: str | None, walked: Walked) -> None:
    ending = path.suffix.lower()
    if ending in ENDINGS:
        walked.pictures.append(Picture(name, str(path)))
    elif ending == ".tar":
        _add_tar(path, name[: -len(".tar")], walked)
    elif ending == ".parquet":
        walked.pictures += _parquet(path, name[: -len(".parquet")], column)
    elif path.name == DATABASE:
        folder = path.parent.name if "/" not in name else str(PurePosixPath(name).parent)
        walked.pictures += _database(path.parent, folder.removesuffix("_lmdb"))
    elif name.lower().endswith((".tar.gz", ".tgz")):
        raise InputError(f"{path}: single pictures of a compressed archive cannot be read; unpack it with gunzip")
    else:
        walked.other[ending or "no extension"] += 1


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if name.lower().endswith(ENDINGS) else name


def _add_tar(path: Path, stem: str, walked: Walked) -> None:
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise InputError(f"{path}: is empty (zero bytes); expected a tar file, write it again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for one in tar.walk(data, str(path)):
                if isinstance(one, tar.Fault):
                    place = f"{path} at {one.offset}"
                    walked.rejected.append(
                        Rejected(place, "damaged tar", f"{path}: at byte {one.offset}: {one.reason}")
                    )
                elif one.name.lower().endswith(ENDINGS):
                    name = f"{stem}/{one.name.removeprefix('./')}"
                    walked.pictures.append(Picture(name, str(path), (one.offset, one.size)))
                else:
                    walked.other[PurePosixPath(one.name).suffix.lower() or "no extension"] += 1


def _parquet(path: Path, stem: str, column: str | None) -> Iterator[Picture]:
    import pyarrow.parquet as parquet

    try:
        opened = parquet.ParquetFile(path)
    except Exception as error:  # pyarrow raises several types
        raise InputError(f"{path}: is not a parquet file ({error}); remove it or write it again") from error
    column, row = _column(path, opened.schema_arrow, column), 0
    for group in range(opened.metadata.num_row_groups):
        for number in range(opened.metadata.row_group(group).num_rows):
            name = f"{stem}/{row:08d}"
            yield Picture(name, str(path), (group, number, column))
            row += 1


def _column(path: Path, schema, column: str | None) -> str:
    import pyarrow as pa

    def encoded(kind) -> bool:
        if pa.types.is_struct(kind):
            return any(field.name == "bytes" and encoded(field.type) for field in kind)
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    able = [field.name for field in schema if encoded(field.type)]
    if column in able or (column is None and len(able) == 1):
        return column or able[0]
    said = f"column={column} holds no encoded pictures" if column else f"{len(able)} columns hold bytes"
    raise InputError(
        f"{path}: {said} (columns with bytes: {', '.join(able) or 'none'}); name the one of the pictures with column="
    )


def _database(folder: Path, stem: str) -> Iterator[Picture]:
    with _opened(str(folder)).begin() as reading:
        for key in reading.cursor().iternext(keys=True, values=False):
            name = f"{stem}/{key.decode('utf-8', 'backslashreplace')}"
            yield Picture(name, str(folder), bytes(key))


def read(picture: Picture) -> bytes | None:
    """The encoded picture; None for an empty cell. Raises OSError."""
    match picture.place:
        case None:
            return Path(picture.file).read_bytes()
        case bytes():
            with _opened(picture.file).begin() as reading:
                return reading.get(picture.place)
        case (offset, size):
            with open(picture.file, "rb") as file:  # noqa: PTH123
                file.seek(offset)
                return file.read(size)
        case (group, row, column):
            value = _group(picture.file, group, column)[row].as_py()
            return value.get("bytes") if isinstance(value, dict) else value


@lru_cache(maxsize=1)
def _group(path: str, group: int, column: str):
    """One column of a row group; it stays in memory for the next of its rows."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        return parquet.ParquetFile(path).read_row_group(group, columns=[column]).column(0)
    except pa.ArrowException as error:
        raise InputError(f"{path}: row group {group} cannot be read ({error}); write the file again") from error


@lru_cache(maxsize=8)
def _opened(folder: str):
    try:
        import lmdb
    except ImportError as error:
        raise InputError(
            f"{folder}: is an LMDB database, which the package lmdb reads; pip install 'vstrain[lmdb]', or export its pictures"
        ) from error
    try:
        return lmdb.open(folder, readonly=True, lock=False, readahead=False, create=False)
    except lmdb.Error as error:
        raise InputError(f"{folder}: cannot be opened as an LMDB database ({error}); copy it anew") from error


def forget() -> None:
    """Close what an earlier run in this process opened: other data may lie there now."""
    _group.cache_clear()
    _opened.cache_clear()
