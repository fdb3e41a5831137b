"""Pairs that a manifest lists: .csv, .tsv (a header line) or .jsonl (an object a line).

Columns: image, depth and, where wanted, mask, sky, key, split (train or val). Paths are relative to the manifest.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.depth_corpus.config import Config
from data_pipelines.depth_corpus.pairs import (
    DEPTH_NAMES,
    IMAGE_NAMES,
    MASK_NAMES,
    SKY_NAMES,
    SPLITS,
    Found,
    Pair,
    guess_column,
)
from data_pipelines.production.plan import Rejected
from vstrain.config.problems import InputError

SUFFIXES = (".csv", ".tsv", ".jsonl")


def find(source: Path, config: Config) -> Found:
    """The pairs that `source` lists. A bad line is rejected by number; a missing column is an InputError."""
    try:
        text = source.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: byte {error.start} is not UTF-8; save the manifest as UTF-8") from error
    rows = list(_json_rows(source, text) if source.suffix.lower() == ".jsonl" else _table_rows(source, text))
    good = [(line, row) for line, row in rows if isinstance(row, dict)]
    rejected = [row for _, row in rows if isinstance(row, Rejected)]
    if not good:
        why = f"; the first bad line: {rejected[0].why}" if rejected else ""
        raise InputError(
            f"{source}: no usable line; expected a header and a line for each image with its depth file{why}"
        )
    columns = list(dict.fromkeys(name for _, row in good for name in row))
    names = {
        role: column(source, columns, role, getattr(config, f"{role}_column"))
        for role in ("image", "depth", "mask", "sky")
    }
    pairs, seen = [], {}
    for line, row in good:
        where = f"{source.name}:{line}"
        pair = _pair(source, row, names, config, where)
        if isinstance(pair, Pair) and pair.key in seen:
            pair = Rejected(
                where,
                "named twice",
                f"{where}: {pair.key} was already named in line {seen[pair.key]}; keep one of them, "
                "or tell them apart with a `key` column",
            )
        if isinstance(pair, Pair):
            seen[pair.key] = line
            pairs.append(pair)
        else:
            rejected.append(pair)
    masks = "".join(f" and {role}={names[role]}" for role in ("mask", "sky") if names[role])
    return Found(
        f"{len(rows)} lines of {source.name}, columns image={names['image']}, depth={names['depth']}{masks}",
        pairs,
        rejected,
    )


def column(source: Path, columns: list[str], role: str, given: str | None) -> str | None:
    """The column of a role: the config's choice, else one with a known name; mask and sky may be absent."""
    names = {"image": IMAGE_NAMES, "depth": DEPTH_NAMES, "mask": MASK_NAMES, "sky": SKY_NAMES}[role]
    chosen = given or guess_column(columns, names)
    if chosen in columns:
        return chosen
    if role in ("mask", "sky") and given is None:
        return None
    missing = f"no column {given!r}" if given else f"no one column that is surely the {role}"
    raise InputError(f"{source}: {missing} (columns: {', '.join(columns)}); name it with {role}_column=")


def _table_rows(source: Path, text: str) -> Iterator[tuple[int, dict | Rejected]]:
    """Line by line, so that an open quote spoils its own line only."""
    header, delimiter = None, "\t" if source.suffix.lower() == ".tsv" else ","
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            fields = [value.strip() for value in next(csv.reader([line], delimiter=delimiter, strict=True))]
        except csv.Error as error:
            yield number, _bad_line(source, number, f"{error}")
            continue
        if header is None:
            header = fields
        elif len(fields) != len(header):
            yield number, _bad_line(source, number, f"{len(fields)} fields, the header has {len(header)}")
        else:
            yield number, dict(zip(header, fields, strict=True))


def _json_rows(source: Path, text: str) -> Iterator[tuple[int, dict | Rejected]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            yield number, _bad_line(source, number, f"not JSON ({error.msg} at column {error.colno})")
            continue
        yield (
            number,
            row if isinstance(row, dict) else _bad_line(source, number, f"a {type(row).__name__}, not an object"),
        )


def _bad_line(source: Path, line: int, what: str) -> Rejected:
    where = f"{source.name}:{line}"
    return Rejected(where, "bad manifest line", f"{where}: {what}; correct or remove this line")


def _pair(source: Path, row: dict, names: dict[str, str | None], config: Config, where: str) -> Pair | Rejected:
    values = {role: row.get(name) for role, name in names.items() if name}
    for role in ("image", "depth"):
        if not isinstance(values[role], str) or not values[role]:
            return Rejected(
                where,
                "bad manifest line",
                f"{where}: no path in column {names[role]!r}; correct or remove this line",
            )
    split = row.get("split") or None
    if split is not None and str(split).lower() not in SPLITS:
        return Rejected(where, "bad manifest line", f"{where}: split {split!r}; expected train, val or nothing")
    image = Path(values["image"])
    mask = values.get("mask") if config.mask == "use" else None
    return Pair(
        str(row.get("key") or image.with_suffix("").as_posix()),
        source.parent / image,
        source.parent / values["depth"],
        source.parent / mask if mask else None,
        source.parent / values["sky"] if values.get("sky") else None,
        SPLITS[str(split).lower()] if split else None,
        image.parent.as_posix(),
    )
