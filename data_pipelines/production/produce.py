"""How every pipeline makes a data set: in tasks that can be stopped, restarted, and shared between machines.

A plan lists the inputs of every split in order. Consecutive inputs make a task, and a task makes one shard:

    out/train-000000.tar                 (train-000000-01.tar, … where the task's bytes do not fit into one)
    out/.production/plan.json            digest of config and inputs: another plan's folder is refused
    out/.production/train-000000.json    the task's row, its last act: counts, shards with their hashes, what was rejected
    out/.production/lock                 byte 0: opening and finishing; byte 1 + n: task n
    out/.HASH.vstrain-index, rejected.jsonl, summary.json      when all rows are there; summary.json comes last

Nothing passes from one task to another, and every file appears whole under its name. So a task either has its row or is
done again, with the same bytes; who does it, in which order, and how often the work was killed leave no mark.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data_pipelines.executors import EXECUTORS, Execution, part_of
from data_pipelines.production.finish import finish
from data_pipelines.production.folder import (
    SUMMARY,
    check_plan,
    claim,
    digest_of,
    finished,
    index_of,
    locked,
    remove_temporary,
    row_of,
    writing,
)
from data_pipelines.production.plan import Made, Make, Outcome, Plan, Rejected, Row, Task, Total
from vstrain.config.problems import InputError
from vstrain.data.atomic import write_file
from vstrain.data.index import Index
from vstrain.data.kinds import SampleError
from vstrain.data.writer import Shards

Progress = Callable[[str, int, int], None]  # split, how many of this job's inputs are done, of how many


def produce(
    plan: Plan,
    make: Make,
    out: Path,
    execution: Execution,
    overwrite: bool,
    progress: Progress,
    describe: Callable[[Total], dict] = lambda total: {},
) -> Outcome:
    """Do this job's part of `plan` in `out`, and finish the data set if nothing else is left to do.

    describe: further keys of summary.json. Raises InputError where the folder is not this plan's or cannot be written,
    or every input was rejected. After any end whatever the same call goes on from the last finished shard."""
    part = part_of(execution.part)
    tasks, record = plan.tasks(), plan.record()
    claim(out, record, overwrite)
    job = _Job(out, digest_of(record), plan.kind, plan.shard_bytes, plan.jpeg_quality, make)
    try:
        _do(job, tasks[part.number :: part.count], execution, progress)
        with writing(out):
            return finish(plan, tasks, record, out, describe)
    except BaseException as error:
        remove_temporary(out, tasks)
        if not isinstance(error, KeyboardInterrupt):
            raise
        done = sum(row_of(out, task).is_file() for task in tasks)
        print(f"stopped: {done} of {len(tasks)} shards of {out} are done; the same command goes on", file=sys.stderr)
        raise


@dataclass(frozen=True)
class _Job:
    """What a worker must know besides its task."""

    out: Path
    digest: str
    kind: str
    shard_bytes: int
    jpeg_quality: int
    make: Make


def _do(job: _Job, tasks: list[Task], execution: Execution, progress: Progress) -> None:
    """Do what is not done. Tasks that another job holds come last: then this one waits, and does what is still missing."""
    with writing(job.out):
        left = {task.place: task for task in tasks if finished(job.out, task) is None}
        if left:
            (job.out / SUMMARY).unlink(missing_ok=True)
    total, done = Counter(), Counter()
    for task in tasks:
        total[task.split] += len(task.inputs)
        done[task.split] += len(task.inputs) if task.place not in left else 0
    for split in total:
        progress(split, done[split], total[split])
    for wait in (False, True):
        work = partial(_work, job, wait)
        with contextlib.closing(
            EXECUTORS[execution.executor](work, list(left.values()), execution.processes)
        ) as results:
            for place, read in results if left else ():
                if read is not None:
                    task = left.pop(place)
                    done[task.split] += read
                    progress(task.split, done[task.split], total[task.split])


def _work(job: _Job, wait: bool, task: Task) -> tuple[int, int | None]:
    """(place, inputs read); the latter None where another job holds the task and `wait` is False."""
    with writing(job.out), locked(job.out) as lock:
        if not lock.take(1 + task.place, 1, wait):
            return task.place, None
        check_plan(job.out, job.digest)
        row = finished(job.out, task) or _write(job, task)
    return task.place, row.read


def _write(job: _Job, task: Task) -> Row:
    """Make the task's samples and write its shards, then its part of the index, then its row."""
    rejected, ledger, notes, values = Counter(), [], Counter(), {}
    with Shards(job.out, job.kind, task.shard, None, job.shard_bytes, job.jpeg_quality) as shards:
        for one in task.inputs:
            made = _made(job, task, one)
            if isinstance(made, Rejected):
                rejected[made.reason] += 1
                ledger.append(made)
                continue
            try:
                shards.write(made.sample)
            except SampleError as error:
                raise InputError(f"{job.out}: {error}") from error
            notes.update(made.notes)
            for name, value in made.values.items():
                values.setdefault(name, []).append(value)
    if shards.done:
        Index.build(sorted(map(str, shards.paths))).save(index_of(job.out, task))
    row = Row(
        len(task.inputs),
        shards.count,
        dict(sorted(rejected.items())),
        shards.done,
        ledger,
        dict(sorted(notes.items())),
        values,
    )
    write_file(row_of(job.out, task), json.dumps(asdict(row)).encode())
    return row


def _made(job: _Job, task: Task, one: Any) -> Made | Rejected:
    try:
        return job.make(one)
    except OSError as error:
        raise InputError(
            f"{error.filename or task.name}: an input cannot be read ({error.strerror or error}); run the same command again "
            "when it can"
        ) from error
