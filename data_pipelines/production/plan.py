"""What is to be made, cut into tasks, and what a task leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import xxhash

from vstrain.data.writer import Shard

LARGEST, FEWEST, TASKS = 1000, 8, 64  # of shards whose size nobody asked for


@dataclass(frozen=True)
class Rejected:
    sample: str  # the file, or the place in a manifest
    reason: str  # a few words, the same for all of its kind
    why: str  # one sentence: what is wrong, what was expected, what to do


@dataclass(frozen=True)
class Made:
    """sample: what vstrain.data.kinds describes. notes: sentences to be counted. values: numbers to be collected."""

    sample: dict
    notes: tuple[str, ...] = ()
    values: dict[str, float] = field(default_factory=dict)


Make = Callable[[Any], Made | Rejected]  # one input; picklable; depends on nothing but its argument


class Task(NamedTuple):
    split: str
    number: int  # in its split
    place: int  # among all tasks
    inputs: list

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:06d}"

    def shard(self, part: int) -> str:
        return f"{self.name}-{part:02d}.tar" if part else f"{self.name}.tar"


@dataclass(frozen=True)
class Plan:
    """What is to be made.

    inputs: split -> the inputs in order, a list or a range; equal inputs have equal `repr`. config: JSON values that, with
    the inputs, decide every byte. shard_samples: inputs a shard; None: 1000, fewer in a small data set so that every core
    has work.
    rejected, left_out: what was found but is no input."""

    pipeline: str
    kind: str
    config: dict
    inputs: dict[str, list | range]
    shard_samples: int | None
    shard_bytes: int
    jpeg_quality: int
    rejected: tuple[Rejected, ...] = ()
    left_out: int = 0

    def tasks(self) -> list[Task]:
        total = sum(map(len, self.inputs.values()))
        size = self.shard_samples or min(LARGEST, max(FEWEST, -(-total // TASKS)))
        cut = [
            (split, number, inputs[start : start + size])
            for split, inputs in self.inputs.items()
            for number, start in enumerate(range(0, len(inputs), size))
        ]
        return [Task(split, number, place, inputs) for place, (split, number, inputs) in enumerate(cut)]

    def record(self) -> dict:
        """What plan.json holds."""
        inputs = xxhash.xxh3_64(repr((self.rejected, self.left_out)).encode("utf-8", "surrogateescape"))
        for split, ones in self.inputs.items():
            for one in [ones] if isinstance(ones, range) else ones:
                inputs.update(f"\n{split} {one!r}".encode("utf-8", "surrogateescape"))
        return {
            "format": 1,
            "pipeline": self.pipeline,
            "kind": self.kind,
            "inputs": {split: len(inputs) for split, inputs in self.inputs.items()},
            "inputs_digest": inputs.hexdigest(),
            "shards": [self.shard_samples, self.shard_bytes, self.jpeg_quality],
            "config": json.loads(json.dumps(self.config, default=str)),
        }


@dataclass(frozen=True)
class Row:
    """What became of a task. read == kept + sum(rejected) == the number of its inputs."""

    read: int
    kept: int
    rejected: dict[str, int]
    shards: list[Shard]
    ledger: list[Rejected]
    notes: dict[str, int]
    values: dict[str, list[float]]

    @classmethod
    def parse(cls, text: str) -> Row:
        found = json.loads(text)
        found["shards"] = [Shard(**shard) for shard in found["shards"]]
        found["ledger"] = [Rejected(**one) for one in found["ledger"]]
        return cls(**found)


@dataclass(frozen=True)
class Outcome:
    """summary: what summary.json holds; None while other jobs have tasks to do. done of tasks are finished."""

    summary: dict | None
    done: int
    tasks: int


class Total(NamedTuple):
    """Sums over all rows, for the pipeline's own words in the summary."""

    kept: dict[str, int]  # split -> samples
    rejected: dict[str, int]  # reason -> samples
    notes: dict[str, int]
    values: dict[str, list[float]]
