"""`verify`: every shard of a data set read once, several at a time, and everything that is wrong with it."""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import xxhash

from vstrain.data.atomic import write_file
from vstrain.data.checks.content import guess_kind
from vstrain.data.checks.survey import (
    BAD_INDEX,
    DUPLICATE,
    STALE,
    Finding,
    saved_for,
    schemas,
    survey,
)
from vstrain.data.look.facts import size_text
from vstrain.data.problems import DataError

Progress = Callable[[str, int, int], None]  # (what, done, of how many)
GUESS_FROM = 3  # shards whose members say what kind the data are of
OF_INDEX = (STALE, BAD_INDEX)


@dataclass
class Report:
    """kind: what was checked for; findings: in the order of the shards, at most one for a sample; compared: shards whose
    hashes were compared with a saved index; sizes: bytes of each shard."""

    shards: list[str]
    kind: str | None
    decoded: bool
    samples: int = 0
    compared: int = 0
    sizes: list[int] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.findings

    def counts(self) -> Counter:
        return Counter(finding.reason for finding in self.findings)

    def lost(self) -> dict[str, set[str]]:
        """shard -> keys of its samples that are not whole."""
        out: dict[str, set[str]] = {}
        for finding in self.findings:
            if finding.key and not finding.kept:
                out.setdefault(finding.shard, set()).add(finding.key)
        return out

    def damaged_shards(self) -> set[str]:
        """Shards that differ from what they should be; a wrong index is no damage of a shard."""
        return {finding.shard for finding in self.findings if finding.reason not in OF_INDEX}

    def save(self, path: Path) -> None:
        """The findings as JSON lines: shard, key (empty: no sample of its own), reason, detail, kept."""
        lines = [json.dumps(finding.record(), ensure_ascii=False) + "\n" for finding in self.findings]
        write_file(path, "".join(lines).encode("utf-8", "surrogateescape"))

    def text(self, most: int = 50) -> str:
        """What the user reads: each finding (the first `most`), counts by reason, and what to do."""
        lines = [
            f"{f.shard}: {f'sample {f.key}: ' if f.key else ''}{'; '.join(f.detail)}" for f in self.findings[:most]
        ]
        if len(self.findings) > most:
            lines.append(f"… and {len(self.findings) - most} more; out=FILE writes all of them")
        lines += [f"  {count:>8}  {reason}" for reason, count in self.counts().most_common()]
        return "\n".join([*lines, self._summary(), *self._advice()])

    def _summary(self) -> str:
        shards, total = len(self.shards), sum(self.sizes)
        checked = "headers, members and contents" if self.decoded else "headers and members"
        what = f"kind {self.kind}" if self.kind else "no kind of vstrain's own"
        sizes = f"{size_text(min(self.sizes))} to {size_text(max(self.sizes))} each" if self.sizes else ""
        return (
            f"{self.samples} samples in {shards} shard{'s' * (shards > 1)}, {size_text(total)} ({sizes}), {what}; "
            f"checked {checked}; {self.compared} of {shards} compared with the hashes of an index: "
            + ("sound" if self.sound else f"{len(self.findings)} finding{'s' * (len(self.findings) > 1)}")
        )

    def _advice(self) -> list[str]:
        counts, lines = self.counts(), []
        if self.compared < len(self.shards) and not any(counts[reason] for reason in OF_INDEX):
            lines.append(
                "Without an index a changed byte that still decodes is not seen; vstrain data index makes one."
            )
        if counts[STALE]:
            lines.append("Make the index again (vstrain data index URLS), if the shards were changed on purpose.")
        if counts[BAD_INDEX]:
            lines.append("Delete the damaged index file; it is made again from the shards.")
        if self.damaged_shards():
            lines.append(
                "Training skips damaged samples. Copy the shards again if the source is sound, or write the intact "
                "samples anew: vstrain data repair URLS out=FOLDER"
            )
        return lines


def verify(
    urls: list[str], processes: int, decode: bool = True, kind: str = "auto", progress: Progress | None = None
) -> Report:
    """Check the shards `urls` (expanded addresses). kind: a key of KINDS, `none`, or `auto`: what most samples look like.

    The report does not depend on the number of processes."""
    saved, index_findings = saved_for(urls)
    wanted = _kind(urls, saved, kind)
    report = Report(urls, wanted, decode)
    work = [(url, saved.get(url)) for url in urls]
    found: list[_Examined] = []
    for part in spread(partial(_examine, kind=wanted, decode=decode), work, processes):
        found.append(part)
        if progress:
            progress("shards", len(found), len(urls))
    report.samples = sum(len(part.keys) for part in found)
    report.compared = sum(part.compared for part in found)
    report.sizes = [part.size for part in found]
    _add_duplicates(work, found)
    report.findings = index_findings + [finding for part in found for finding in part.findings]
    return report


@dataclass
class _Examined:
    """keys: uint64, a hash of every sample's key; whole: bool, whether it can be used."""

    keys: np.ndarray
    whole: np.ndarray
    size: int
    compared: bool
    findings: list[Finding]


def spread(function: Callable, work: list, processes: int) -> Iterator:
    """function(item) of every item of `work`, in its order, in so many processes."""
    if min(processes, len(work)) <= 1:
        yield from map(function, work)
        return
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(min(processes, len(work)), context, initializer=_start_worker) as pool:
        try:
            yield from pool.map(function, work)
        except BrokenProcessPool as error:
            raise DataError(
                "a process that read shards was killed, most likely for want of memory; give fewer with processes="
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker() -> None:
    import cv2

    cv2.setNumThreads(1)


def _examine(work: tuple, kind: str | None, decode: bool) -> _Examined:
    found = survey(*work, kind, decode)
    lost = {finding.key for finding in found.findings if not finding.kept}
    keys = [xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogateescape")) for key in found.samples]
    whole = np.array([key not in lost for key in found.samples], bool)
    return _Examined(np.array(keys, np.uint64), whole, found.size, found.compared, found.findings)


def _kind(urls: list[str], saved: dict, kind: str) -> str | None:
    if kind != "auto":
        return None if kind == "none" else kind
    seen: Counter = Counter()
    for number, url in enumerate(urls):
        seen += schemas(url, saved.get(url))
        if seen and number + 1 >= GUESS_FROM:
            break
    return guess_kind(seen)


def _add_duplicates(work: list[tuple], found: list[_Examined]) -> None:
    """A finding for each whole sample whose key an earlier whole one has already, in place of any other of that sample."""
    keys = np.concatenate([part.keys[part.whole] for part in found])
    shard = np.repeat(np.arange(len(found)), [part.whole.sum() for part in found])
    number = np.concatenate([np.flatnonzero(part.whole) for part in found])
    order = np.argsort(keys, kind="stable")  # so that of equal keys the earliest comes first
    again = np.flatnonzero(keys[order][1:] == keys[order][:-1]) + 1
    first = np.searchsorted(keys[order], keys[order][again])
    for n in np.unique(shard[order[again]]):
        names = list(survey(*work[n], None, decode=False).samples)
        twice = {
            names[number[order[at]]]: work[shard[order[to]]][0]
            for at, to in zip(again, first, strict=True)
            if shard[order[at]] == n
        }
        part = found[n]
        part.findings = [finding for finding in part.findings if finding.key not in twice] + [
            Finding(work[n][0], key, (DUPLICATE,), (f"the key is that of a sample in {other}, too",))
            for key, other in sorted(twice.items(), key=lambda item: names.index(item[0]))
        ]
