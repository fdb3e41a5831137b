"""`vstrain data convert`: other people's data sets, as shards of any kind.

find the source (find, sources) -> check the columns -> split the rows -> make each sample (members) in the tasks of a production.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import xxhash

from data_pipelines.convert.config import Config
from data_pipelines.convert.find import find
from data_pipelines.convert.members import Cell, member
from data_pipelines.convert.sources import BadRow, Source, Tars
from data_pipelines.executors import Execution
from data_pipelines.production.folder import REJECTED
from data_pipelines.production.plan import Made, Outcome, Plan, Rejected, Total
from data_pipelines.production.produce import produce
from vstrain.config.problems import InputError, nearest
from vstrain.data import kinds

ELSEWHERE = {"out", "overwrite", *Execution.model_fields}  # keys that change no byte

Columns = dict[str, str | list[str]]  # member -> column(s)
Progress = Callable[[str, int, int], None]  # split, how many rows are done, of how many


class Row(NamedTuple):
    number: int
    key: str


@dataclass(frozen=True)
class Result:
    """summary: what summary.json holds; None while other jobs have shards to write."""

    out: Path
    outcome: Outcome

    @property
    def summary(self) -> dict | None:
        return self.outcome.summary

    @property
    def text(self) -> str:
        """What to print: the counts, what was done to values, and the keys that name the shards."""
        if self.summary is None:
            return (
                f"this job's part is done; {self.outcome.done} of {self.outcome.tasks} shards of {self.out} are there, and the "
                "job that writes the last one finishes the data set"
            )
        kept, rejected = self.summary["kept"], self.summary["rejected"]
        lines = [
            f"found {self.summary['found']} = kept {sum(kept.values())} ({kept['train']} train, {kept['val']} val)"
            f" + rejected {sum(rejected.values())} + left out by limit {self.summary['left_out']}"
        ]
        lines += [f"  rejected {count}: {reason}" for reason, count in rejected.items()]
        lines += [f"  every one with its reason: {self.out / REJECTED}"] if rejected else []
        lines += [f"  {count} samples: {note}" for note, count in self.summary["notes"].items()]
        urls = [
            shlex.quote(f'data.{split}.urls=["{self.out.absolute()}/{split}-*.tar"]')
            for split, count in kept.items()
            if count
        ]
        return "\n".join([*lines, f"name them in a run: data=shards {' '.join(urls)}"])


def run(config: Config, progress: Progress) -> Result:
    """Write `out`/{train,val}-*.tar, rejected.jsonl and, last, summary.json. Whenever it is stopped, the same call goes on.

    Raises InputError when the source as a whole cannot be used."""
    source = find(config)
    columns = _columns(source, config)
    inputs, left_out = _split(source, config)
    plan = Plan(
        pipeline="convert",
        kind=config.kind,
        config={**config.model_dump(exclude=ELSEWHERE), "columns": columns, "fingerprint": source.fingerprint},
        inputs=inputs,
        shard_samples=config.shard_samples,
        shard_bytes=config.shard_bytes,
        jpeg_quality=config.jpeg_quality,
        rejected=source.rejected,
        left_out=left_out,
    )
    out = Path(config.out).expanduser() if config.out else Path("data") / _stem(config.sources[0])
    make = partial(build, source=source, kind=config.kind, columns=columns, quality=config.jpeg_quality)
    return Result(out, produce(plan, make, out, config, config.overwrite, progress, _notes))


def build(row: Row, source: Source, kind: str, columns: Columns, quality: int) -> Made | Rejected:
    """The sample of a row. An empty cell is an error only where the kind needs its member."""
    where = f"{source.name}: row {row.number}" + (f" ({row.key})" if isinstance(source, Tars) else "")
    sample, notes = {"__key__": row.key}, []
    try:
        values = source.get(row.number, _names(columns))
        for name, wanted in columns.items():
            value = {one: values[one] for one in wanted} if isinstance(wanted, list) else values[wanted]
            cell = Cell(f"{where}, {wanted}", value, source.folder(), quality)
            made = member(name, cell)
            notes += cell.notes if made is not None else [f"without {name}, the cell is empty"]
            sample |= {name: made} if made is not None else {}
        _check(kind, sample, where)
    except BadRow as error:
        return Rejected(where, error.reason, str(error))
    return Made(sample, tuple(notes))


def _check(kind: str, sample: dict, where: str) -> None:
    for names in kinds.required(kind):
        if not set(names.split("|")) & set(sample):
            raise BadRow("no value", f"{where}: has no {names.replace('|', ' or ')}; kind {kind} needs one")
    try:
        kinds.check(kind, sample)
    except kinds.SampleError as error:
        raise BadRow("unfit sample", f"{where}: {error}") from error


def _columns(source: Source, config: Config) -> Columns:
    """The columns to take, checked. Of shards, by default, the members that the kind has."""
    kind, there = kinds.KINDS[config.kind], ", ".join(source.columns)
    columns = config.columns or (
        {name: name for name in source.columns if name in kind} if isinstance(source, Tars) else {}
    )
    members = sorted({name for names in (*kinds.required(config.kind), *kind.optional) for name in names.split("|")})
    for name, wanted in columns.items():
        if name not in kind:
            raise InputError(f"columns.{name}: kind {config.kind} has no member {name}; {nearest(name, members)}")
        if isinstance(wanted, list) and not name.endswith("json"):
            raise InputError(f"columns.{name}: several columns make a json member only; name one column")
        for one in _names({name: wanted}):
            if one not in source.columns:
                raise InputError(f"columns.{name}: {source.name} has no column {one}; {nearest(one, source.columns)}")
    for names in kinds.required(config.kind):
        if not set(names.split("|")) & set(columns):
            first = names.split("|")[0]
            raise InputError(
                f"columns: kind {config.kind} needs {names.replace('|', ' or ')}; say which column it is, as in "
                f"columns={{{first}: COLUMN}}; {source.name} has {there}"
            )
    return dict(columns)


def _names(columns: Columns) -> list[str]:
    listed = [[wanted] if isinstance(wanted, str) else wanted for wanted in columns.values()]
    return list(dict.fromkeys(name for names in listed for name in names))


def _split(source: Source, config: Config) -> tuple[dict[str, list[Row]], int]:
    """train and val rows in the order of the source, and how many `limit` leaves out. Named splits are followed; where
    there are none, a hash of seed and key puts val_fraction of the rows into val, and the smallest if none is below."""
    keys = source.keys()
    if not keys:
        raise InputError(f"{source.name}: has no rows; give a data set that has some")
    named = any(part.split for part in source.parts)
    cut = keys if named else keys[: config.limit]
    spots = [] if named else [_spot(config.seed, key) for key in cut]
    smallest = min(spots, default=1.0) if config.val_fraction > 0 and len(cut) > 1 else None
    inputs: dict[str, list[Row]] = {"train": [], "val": []}
    for number, key in enumerate(cut):
        if named:
            split = source.place(number)[0].split or "train"
        else:
            split = "val" if spots[number] < config.val_fraction or spots[number] == smallest else "train"
        if not named or config.limit is None or len(inputs[split]) < config.limit:
            inputs[split].append(Row(number, key))
    return inputs, len(keys) - sum(map(len, inputs.values()))


def _spot(seed: int, key: str) -> float:
    return xxhash.xxh3_64_intdigest(f"{seed}/split/{key}".encode()) / 2**64


def _stem(source: str) -> str:
    """A folder's name for a path, a pattern or an address."""
    path = re.sub(r"[\[{*?].*", "", source.rstrip("/"))
    name = Path(path.rstrip("/-_.") or "converted").name
    return re.sub(r"\.(tar|parquet)$", "", name) or "converted"


def _notes(total: Total) -> dict:
    return {"notes": total.notes}
