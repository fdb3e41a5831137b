"""The folder of a production: whose it is, which tasks are finished, who holds what."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import xxhash

from data_pipelines.production.plan import Row, Task
from vstrain.config.problems import InputError
from vstrain.data.atomic import write_file

STATE, SUMMARY, REJECTED = ".production", "summary.json", "rejected.jsonl"


class Lock:
    """Byte ranges of one file, locked by the kernel: a killed process holds none, and NFS and Lustre carry them."""

    def __init__(self, path: Path):
        self.path, self.file = path, path.open("ab")

    def take(self, first: int, count: int, wait: bool) -> bool:
        """Lock `count` bytes (0: all) from `first` on; False when another process has one of them and wait is False."""
        while True:
            try:
                fcntl.lockf(self.file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), count, first)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EACCES) and not wait:
                    return False
                raise
            if os.fstat(self.file.fileno()).st_nlink:
                return True
            self.file.close()  # the folder was removed meanwhile, and perhaps made again
            self.file = self.path.open("ab")


@contextlib.contextmanager
def locked(out: Path) -> Iterator[Lock]:
    lock = Lock(out / STATE / "lock")
    try:
        yield lock
    finally:
        lock.file.close()


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """One sentence for whatever keeps `out` from being written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"{out}: no space is left there; make room and run the same command again: it goes on "
                "from the last finished shard"
            ) from error
        raise InputError(
            f"{error.filename or out}: cannot be written ({error.strerror or error}); choose another folder with out=, "
            "or run the same command again when it can"
        ) from error


def claim(out: Path, record: dict, overwrite: bool) -> None:
    """Make `out` the folder of this plan, or refuse it."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; expected a folder to write shards to, choose another with out=")
    with writing(out):
        there = {path.name for path in out.iterdir()} if out.is_dir() else set()
        if there and STATE not in there:
            raise InputError(
                f"{out}: not empty and not written by {record['pipeline']}; choose another folder with out="
            )
        (out / STATE).mkdir(parents=True, exist_ok=True)
        with locked(out) as lock:
            lock.take(0, 1, wait=True)
            known = known_plan(out)
            if known == record and not (overwrite and (out / SUMMARY).exists()):
                return
            if known is not None and not overwrite:
                raise InputError(
                    f"{out}: holds a data set of {_difference(known, record)}; overwrite=true replaces it, out= writes elsewhere"
                )
            if known is not None:
                if not lock.take(0, 0, wait=False):
                    raise InputError(
                        f"{out}: another process is writing there; wait for it, stop it, or choose another out="
                    )
                empty(out)
            write_file(out / STATE / "plan.json", json.dumps(record, indent=1).encode())


def known_plan(out: Path) -> dict | None:
    try:
        return json.loads((out / STATE / "plan.json").read_text())
    except (FileNotFoundError, ValueError):
        return None


def digest_of(record: dict) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(record, sort_keys=True).encode())


def check_plan(out: Path, digest: str) -> None:
    if digest_of(known_plan(out) or {}) != digest:
        raise InputError(f"{out}: was taken over by another run with other settings; choose another folder with out=")


def _difference(known: dict, record: dict) -> str:
    if known["pipeline"] != record["pipeline"]:
        return f"the pipeline {known['pipeline']}"
    old, new = known["config"], record["config"]
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            return f"other settings ({key}={old.get(key)}, now {key}={new.get(key)})"
    return "other inputs" if known["inputs_digest"] != record["inputs_digest"] else "other settings"


def empty(out: Path) -> None:
    """Remove the data set of the known plan: what is marked complete first, the plan last, other people's files never."""
    (out / SUMMARY).unlink(missing_ok=True)
    (out / REJECTED).unlink(missing_ok=True)
    ours = shard_names((known_plan(out) or {"inputs": {}})["inputs"])
    for path in list(out.iterdir()):
        if ours.fullmatch(path.name) or re.fullmatch(r"\.[0-9a-f]{16}\.vstrain-index", path.name):
            path.unlink()
    for path in sorted((out / STATE).iterdir(), key=lambda path: path.name == "plan.json"):
        if path.name != "lock":
            path.unlink()


def remove_temporary(out: Path, tasks: list[Task]) -> None:
    """What is on its way, of those of `tasks` that no process holds."""
    places = {task.name: task.place for task in tasks}
    with contextlib.suppress(OSError), locked(out) as lock:
        for path in [*out.glob(".*.tmp"), *(out / STATE).glob("*.tmp")]:
            name = re.match(r"\.?(.+?-\d{6,})", path.name)
            if name and name[1] in places and lock.take(1 + places[name[1]], 1, wait=False):
                path.unlink()


def shard_names(splits: Iterable[str]) -> re.Pattern:
    """Names of shards of these splits, finished or on their way."""
    return re.compile(rf"\.?({'|'.join(map(re.escape, splits))})-\d{{6,}}(-\d\d+)?\.tar(\.tmp)?")


def finished(out: Path, task: Task) -> Row | None:
    """The task's row, if it is whole, adds up, and its shards are there with their sizes."""
    try:
        row = Row.parse(row_of(out, task).read_text())
        whole = all((out / shard.name).stat().st_size == shard.bytes for shard in row.shards)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    adds_up = row.read == len(task.inputs) == row.kept + sum(row.rejected.values())
    return row if whole and adds_up and row.kept == sum(shard.samples for shard in row.shards) else None


def row_of(out: Path, task: Task) -> Path:
    return out / STATE / f"{task.name}.json"


def index_of(out: Path, task: Task) -> Path:
    return out / STATE / f"{task.name}.index"
