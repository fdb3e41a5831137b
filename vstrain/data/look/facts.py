"""What an index tells of a data set: counts, bytes, members, sizes, its kind, without reading a sample."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from vstrain.data.checks.content import guess_kind
from vstrain.data.index import Index


@dataclass(frozen=True)
class Member:
    """name: NNN stands for numbers; samples: how many have it; each: members a sample of these, on average."""

    name: str
    samples: int
    each: float
    median: int  # bytes
    total: int  # bytes


@dataclass(frozen=True)
class Facts:
    samples: int
    shards: int
    bytes: int
    kind: str | None
    fingerprint: str
    members: list[Member]
    widths: tuple[int, int] | None  # smallest, largest; None: no picture's size is known
    heights: tuple[int, int] | None
    keys: list[str]
    faults: int

    def lines(self) -> list[str]:
        """The facts as text."""
        head = f"{self.samples} samples in {self.shards} shard{'s' * (self.shards > 1)}, {size_text(self.bytes)}"
        out = [f"{head}, kind {self.kind or 'unknown'}", f"fingerprint {self.fingerprint}"]
        if self.widths:
            out.append(f"pictures {span(*self.widths)} wide, {span(*self.heights)} high")
        out.append(f"keys {', '.join(self.keys)}" + " …" * (self.samples > len(self.keys)))
        if self.faults:
            out.append(f"{self.faults} damaged places in the shards: vstrain data verify names them")
        wide = max([len(member.name) for member in self.members] + [6])
        out.append(f"{'member':<{wide}}  {'samples':>9}  {'each':>5}  {'median':>9}  {'total':>9}")
        for member in self.members:
            out.append(
                f"{member.name:<{wide}}  {member.samples:>9}  {member.each:>5.3g}  {size_text(member.median):>9}  "
                f"{size_text(member.total):>9}"
            )
        return out


def facts(index: Index) -> Facts:
    known = index.width > 0
    return Facts(
        samples=len(index),
        shards=len(index.shards),
        bytes=sum(index.sizes),
        kind=kind_of(index),
        fingerprint=index.fingerprint,
        members=_members(index),
        widths=_range(index.width[known]),
        heights=_range(index.height[known]),
        keys=[index.key(n) for n in range(min(4, len(index)))],
        faults=len(index.faults),
    )


def kind_of(index: Index) -> str | None:
    counts = Counter(index.schema.tolist())
    return guess_kind(Counter({tuple(index.schemas[number]): count for number, count in counts.items()}))


def spread_over(count: int, wanted: int) -> list[int]:
    """At most `wanted` different ones of 0 … count - 1, evenly spread: always the same."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(int)).tolist() if count else []


def sample_bytes(index: Index) -> np.ndarray:
    """int64 (samples,): bytes of all members of each sample."""
    ends = np.concatenate([[0], np.cumsum(index.size, dtype=np.int64)])
    first = index.first.astype(np.int64)
    lengths = np.array([len(schema) for schema in index.schemas] or [0])[index.schema]
    return ends[first + lengths] - ends[first]


def size_text(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"


def span(low, high) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


def _range(values: np.ndarray) -> tuple[int, int] | None:
    return (int(values.min()), int(values.max())) if len(values) else None


def _members(index: Index) -> list[Member]:
    sizes: dict[str, list[np.ndarray]] = {}
    samples: Counter = Counter()
    for number, schema in enumerate(index.schemas):
        rows = np.flatnonzero(index.schema == number)
        first = index.first[rows].astype(np.int64)
        names = [re.sub(r"_\d{3}(?=\.)", "_NNN", name) for name in schema]
        for place, name in enumerate(names):
            sizes.setdefault(name, []).append(index.size[first + place])
        samples.update({name: len(rows) for name in set(names)})
    out = []
    for name, parts in sizes.items():
        all_sizes = np.concatenate(parts)
        total = int(all_sizes.sum(dtype=np.int64))
        out.append(Member(name, samples[name], len(all_sizes) / samples[name], int(np.median(all_sizes)), total))
    return out
