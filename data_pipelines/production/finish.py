"""The end of a production: one index, one ledger, one summary."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import xxhash

from data_pipelines.production.folder import (
    REJECTED,
    STATE,
    SUMMARY,
    check_plan,
    digest_of,
    empty,
    finished,
    index_of,
    locked,
    shard_names,
)
from data_pipelines.production.plan import Outcome, Plan, Rejected, Row, Task, Total
from vstrain.config.problems import InputError
from vstrain.data.atomic import sync_folder, write_file
from vstrain.data.index import Index, sidecar
from vstrain.data.problems import DataError


def finish(plan: Plan, tasks: list[Task], record: dict, out: Path, describe: Callable[[Total], dict]) -> Outcome:
    """When every task has its row: index, ledger and summary, by one job only; the others read what it wrote."""
    with locked(out) as lock:
        lock.take(0, 1, wait=True)
        check_plan(out, digest_of(record))
        rows = [finished(out, task) for task in tasks]
        if missing := rows.count(None):
            return Outcome(None, len(tasks) - missing, len(tasks))
        _remove_leftovers(out, plan, rows)
        if not (out / SUMMARY).exists():
            rejected = [*plan.rejected, *(one for row in rows for one in row.ledger)]
            ledger = "".join(json.dumps(asdict(one)) + "\n" for one in rejected).encode()
            if not sum(row.kept for row in rows):
                _give_up(out, rejected, ledger)
            _write_index(out, tasks, rows)
            write_file(out / REJECTED, ledger)
            summary = _summary(plan, tasks, rows, describe)
            write_file(out / SUMMARY, (json.dumps(summary, indent=1) + "\n").encode())
        for path in (out / STATE).glob("*.index"):
            path.unlink()
        return Outcome(json.loads((out / SUMMARY).read_text()), len(tasks), len(tasks))


def _summary(plan: Plan, tasks: list[Task], rows: list[Row], describe: Callable[[Total], dict]) -> dict:
    """found == kept + rejected + left_out, in all and in each stage."""
    kept, made_rejected, notes = Counter(dict.fromkeys(plan.inputs, 0)), Counter(), Counter()
    values: dict[str, list[float]] = {}
    for task, row in zip(tasks, rows, strict=True):
        kept[task.split] += row.kept
        made_rejected.update(row.rejected)
        notes.update(row.notes)
        for name, numbers in row.values.items():
            values.setdefault(name, []).extend(numbers)
    find_rejected = Counter(one.reason for one in plan.rejected)
    inputs = sum(map(len, plan.inputs.values()))
    found = inputs + len(plan.rejected) + plan.left_out
    total = Total(
        dict(kept), dict(sorted((find_rejected + made_rejected).items())), dict(sorted(notes.items())), values
    )
    shards = [shard for row in rows for shard in row.shards]
    return {
        "pipeline": plan.pipeline,
        "kind": plan.kind,
        "found": found,
        "kept": total.kept,
        "rejected": total.rejected,
        "left_out": plan.left_out,
        "stages": {
            "find": {
                "read": found,
                "kept": inputs,
                "rejected": dict(sorted(find_rejected.items())),
                "left_out": plan.left_out,
            },
            "make": {"read": inputs, "kept": sum(kept.values()), "rejected": dict(sorted(made_rejected.items()))},
        },
        "shards": len(shards),
        "bytes": sum(shard.bytes for shard in shards),
        **describe(total),
        "config": json.loads(json.dumps(plan.config, default=str)),
    }


def _write_index(out: Path, tasks: list[Task], rows: list[Row]) -> None:
    """One sidecar a split, merged from the tasks' own. Raises InputError when two samples have one key."""
    merged = []
    for split in dict.fromkeys(task.split for task in tasks):
        pieces = [
            _piece(out, task, row) for task, row in zip(tasks, rows, strict=True) if task.split == split and row.shards
        ]
        if pieces:
            merged.append(Index.merge(pieces))
    _refuse_doubles(out, merged)
    for number, index in enumerate(merged):
        index.save(out / STATE / f"{number}.index").rename(sidecar(index.shards))
    sync_folder(out)


def _piece(out: Path, task: Task, row: Row) -> Index:
    shards = sorted(str(out / shard.name) for shard in row.shards)
    try:
        piece = Index.load(index_of(out, task), shards)
    except (FileNotFoundError, DataError):
        piece = Index.build(shards)
    if len(piece) != row.kept or piece.faults:
        raise InputError(
            f"{shards[0]}: {len(piece)} samples are readable where {row.kept} were written; the disk lost some: remove the shard "
            "and run the same command again"
        )
    return Index.merge([piece])  # in memory: a mapped file stays open, and there are as many as tasks


def _refuse_doubles(out: Path, merged: list[Index]) -> None:
    everything = Index.merge(merged)
    digests = (
        xxhash.xxh3_64_intdigest(everything.key(n).encode("utf-8", "surrogateescape")) for n in range(len(everything))
    )
    hashes = np.fromiter(digests, np.uint64, len(everything))
    order = np.argsort(hashes, kind="stable")
    for at in np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]]):
        one, other = int(order[at]), int(order[at + 1])
        if everything.key(one) == everything.key(other):
            shards = " and ".join(Path(everything.shards[everything.shard[n]]).name for n in (one, other))
            raise InputError(
                f"{out}: two samples have the key {everything.key(one)}, in {shards}; give every input a name of its own and "
                "make the data set anew with overwrite=true"
            )


def _remove_leftovers(out: Path, plan: Plan, rows: list[Row]) -> None:
    """What killed attempts left, and parts of shards that an older version of the code cut otherwise. No task is under way
    when every row is there."""
    known = {shard.name for row in rows for shard in row.shards}
    ours = shard_names(plan.inputs)
    for path in out.iterdir():
        if ours.fullmatch(path.name) and path.name not in known:
            path.unlink()
    for path in (out / STATE).glob("*.tmp"):
        path.unlink()


def _give_up(out: Path, rejected: list[Rejected], ledger: bytes) -> None:
    beside = out.with_name(f"{out.name}.{REJECTED}")
    write_file(beside, ledger)
    empty(out)
    for path in (out / STATE).iterdir():
        path.unlink()
    (out / STATE).rmdir()
    with contextlib.suppress(OSError):
        out.rmdir()
    reasons = ", ".join(
        f"{count} {reason}" for reason, count in sorted(Counter(one.reason for one in rejected).items())
    )
    raise InputError(
        f"{out}: all {len(rejected)} samples were rejected ({reasons}), nothing was written; all reasons: {beside}; "
        f"the first: {rejected[0].why}"
        if rejected
        else f"{out}: there is nothing to make; give inputs"
    )
