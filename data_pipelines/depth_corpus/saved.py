"""Pairs of a data set that Hugging Face `datasets` saved with save_to_disk: one folder, or one a split."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from data_pipelines.depth_corpus.config import Config
from data_pipelines.depth_corpus.manifest import column
from data_pipelines.depth_corpus.pairs import SPLITS, Cell, Found, Pair
from vstrain.config.problems import InputError


def is_saved(source: Path) -> bool:
    return (source / "dataset_dict.json").is_file() or (source / "state.json").is_file()


def find(source: Path, config: Config) -> Found:
    """One pair a row; the splits of a DatasetDict become train and val by their names."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(source))
    except Exception as error:
        raise InputError(f"{source}: datasets cannot open it ({error}); save it again with save_to_disk") from error
    tables = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {None: loaded}
    pairs, said = [], []
    for split, table in tables.items():
        names = {
            role: column(source, table.column_names, role, getattr(config, f"{role}_column"))
            for role in ("image", "depth", "mask", "sky")
        }
        if config.mask == "ignore":
            names["mask"] = None
        said.append(f"{len(table)} rows of {split or source.name}")
        for row in range(len(table)):
            cells = {role: Cell(source, split, row, name) for role, name in names.items() if name}
            pairs.append(
                Pair(
                    f"{split or 'row'}_{row:06d}",
                    **cells,
                    split=SPLITS.get((split or "").lower()),
                    group=split or "",
                )
            )
    if not pairs:
        raise InputError(f"{source}: the saved data set has no rows; expected an image and a depth column")
    columns = ", ".join(f"{role}={name}" for role, name in names.items() if name)
    return Found(f"{', '.join(said)}, columns {columns}", pairs)


def fetch(cell: Cell) -> tuple[str, bytes | np.ndarray]:
    """The value of a cell: an encoded file with its name, or an array."""
    value = _column(cell.folder, cell.split, cell.column)[cell.row][cell.column]
    if isinstance(value, dict) and ("bytes" in value or "path" in value):
        name = value.get("path") or f"{cell}"
        if value.get("bytes") is not None:
            return name, value["bytes"]
        value = value["path"]
    if isinstance(value, bytes):
        return f"{cell}", value
    if isinstance(value, str):
        path = cell.folder / value
        return str(path), path.read_bytes()
    if value is None:
        raise FileNotFoundError(f"{cell}: the cell is empty")
    return f"{cell}", np.asarray(value)


@lru_cache(maxsize=8)
def _column(folder: Path, split: str | None, name: str):
    import datasets

    loaded = datasets.load_from_disk(str(folder))
    table = (loaded if split is None else loaded[split]).select_columns([name])
    if isinstance(table.features[name], datasets.Image):
        table = table.cast_column(name, datasets.Image(decode=False))
    return table
