"""`vstrain data depth_corpus`: a user's images with depth, as shards of kind `depth`.

find pairs (folder | manifest | saved) -> choose, order and split them by hash -> build each in a pool
(sample) -> write in order.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import xxhash

from data_pipelines.depth_corpus import folder, manifest, saved
from data_pipelines.depth_corpus.config import Config
from data_pipelines.depth_corpus.pairs import Found, Pair, Rejected, clean_keys
from data_pipelines.depth_corpus.sample import Built, build
from vstrain.config.problems import InputError
from vstrain.data.writer import ShardWriter

SUMMARY, REJECTED = "summary.json", "rejected.jsonl"
FAR_AWAY = 10_000  # metres; a typical distance beyond this is a forgotten scale

Progress = Callable[[str, int, int], None]  # what is being done, how many are done, of how many


@dataclass(frozen=True)
class Result:
    """found == sum(kept) + sum(rejected) + left_out (by `limit`), always."""

    out: Path
    found: int
    kept: dict[str, int]  # split -> samples
    rejected: dict[str, int]  # reason -> samples
    left_out: int
    pairing: str
    warnings: list[str]

    @property
    def text(self) -> str:
        """What to print: the counts, what needs a look, and the next command."""
        lines = [
            self.pairing,
            f"found {self.found} = kept {sum(self.kept.values())} "
            f"({self.kept['train']} train, {self.kept['val']} val)"
            f" + rejected {sum(self.rejected.values())}"
            + (f" + left out by limit {self.left_out}" if self.left_out else ""),
        ]
        lines += [f"  rejected {count}: {reason}" for reason, count in self.rejected.items()]
        lines += [f"  every one with its reason: {self.out / REJECTED}"] if self.rejected else []
        lines += [f"warning: {warning}" for warning in self.warnings]
        urls = [
            shlex.quote(f'data.{split}.urls=["{self.out.absolute()}/{split}-*.tar"]')
            if count
            else f"data.{split}.urls=OTHER_SHARDS"
            for split, count in self.kept.items()
        ]
        return "\n".join([*lines, "next: vstrain experiment=depth_teacher data=shards " + " ".join(urls)])


def run(config: Config, progress: Progress) -> Result:
    """Write `out`/{train,val}-*.tar, rejected.jsonl and summary.json; the folder appears when it is complete.

    The same input and config give the same bytes, whatever `processes` is. Raises InputError when the
    input as a whole cannot be used."""
    out = _out(config)
    found = _find(config)
    pairs, left_out = _choose(found.pairs, config)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        kept, rejected, warnings = _write(pairs, found.rejected, config, partial, progress)
        result = Result(
            out,
            len(found.pairs) + len(found.rejected),
            kept,
            _by_reason(rejected),
            left_out,
            found.how,
            warnings,
        )
        if not sum(kept.values()):
            raise InputError(_nothing_kept(config, rejected, _keep_ledger(partial, out)))
        summary = {key: value for key, value in vars(result).items() if key != "out"}
        summary["config"] = config.model_dump(exclude={"out", "overwrite", "processes"})
        (partial / SUMMARY).write_text(json.dumps(summary, indent=1, default=str) + "\n")
        _commit(partial, out)
    except OSError as error:
        raise InputError(
            f"{error.filename or out}: cannot be written ({error.strerror}); choose another folder with out="
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return result


def _out(config: Config) -> Path:
    out = Path(config.out).expanduser() if config.out else Path("data") / Path(config.source).absolute().stem
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; expected a folder to write shards to, choose another with out=")
    if out.is_dir() and any(out.iterdir()):
        if not (out / SUMMARY).is_file():
            raise InputError(f"{out}: not empty and not written by depth_corpus; choose another folder with out=")
        if not config.overwrite:
            raise InputError(f"{out}: holds a data set already; overwrite=true replaces it, out= writes elsewhere")
    return out


def _find(config: Config) -> Found:
    source = Path(config.source).expanduser()
    if not source.exists():
        raise InputError(f"{source}: no such source; expected a folder or a .csv, .tsv or .jsonl manifest")
    if source.is_dir():
        found = saved.find(source, config) if saved.is_saved(source) else folder.find(source, config)
    elif source.suffix.lower() in manifest.SUFFIXES:
        found = manifest.find(source, config)
    else:
        raise InputError(f"{source}: not a manifest; expected a folder or one of {', '.join(manifest.SUFFIXES)}")
    return Found(found.how, clean_keys(found.pairs), found.rejected)


def _choose(pairs: list[Pair], config: Config) -> tuple[list[Pair], int]:
    """The pairs in the order of a hash (so neighbouring frames part), cut at `limit`, each with its split;
    and how many were cut.

    A sample's side depends on its key (or folder) and the seed alone, so a data set that grows keeps its
    split. Where no hash falls below val_fraction, the smallest becomes val."""
    ordered = sorted(pairs, key=lambda pair: (_unit_hash(config.seed, "order", pair.key), pair.key))
    chosen = ordered[: config.limit]
    side = {pair.key: pair.key if config.split_by == "sample" else pair.group for pair in chosen if pair.split is None}
    spot = {name: _unit_hash(config.seed, "split", name) for name in side.values()}
    val = {name for name, at in spot.items() if at < config.val_fraction}
    if not val and len(spot) > 1 and config.val_fraction > 0 and all(pair.split is None for pair in chosen):
        val = {min(spot, key=spot.get)}
    split = [
        pair if pair.split else replace(pair, split="val" if side[pair.key] in val else "train") for pair in chosen
    ]
    return split, len(ordered) - len(chosen)


def _unit_hash(seed: int, purpose: str, name: str) -> float:
    return xxhash.xxh3_64_intdigest(f"{seed}/{purpose}/{name}".encode("utf-8", "replace")) / 2**64


def _write(pairs: list[Pair], rejected: list[Rejected], config: Config, directory: Path, progress: Progress):
    """Build and write every pair. Returns samples kept by split, everything rejected, and the warnings."""
    rejected, notes, medians = list(rejected), Counter(), []
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                ShardWriter(
                    directory,
                    split,
                    "depth",
                    max_count=config.shard_samples,
                    max_bytes=config.shard_bytes,
                    jpeg_quality=config.jpeg_quality,
                )
            )
            for split in ("train", "val")
        }
        progress("depth_corpus", 0, len(pairs))
        for done, (pair, built) in enumerate(_built(pairs, config), start=1):
            if isinstance(built, Rejected):
                rejected.append(built)
            else:
                writers[pair.split].write(built.sample)
                notes.update(built.notes)
                medians.append(built.median)
            progress("depth_corpus", done, len(pairs))
    lines = [json.dumps(vars(one)) + "\n" for one in rejected]
    (directory / REJECTED).write_text("".join(lines))
    kept = {split: writer.count for split, writer in writers.items()}
    return kept, rejected, _warnings(kept, notes, medians, config)


def _built(pairs: list[Pair], config: Config) -> Iterator[tuple[Pair, Built | Rejected]]:
    """Every pair with what became of it, in order, a few ahead of the reader."""
    processes = min(config.processes or os.cpu_count() or 1, max(1, len(pairs) // 8))
    if processes == 1:
        _quiet()
        yield from ((pair, build(pair, config)) for pair in pairs)
        return
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("forkserver"), initializer=_quiet)
    coming, ahead = iter(pairs), deque()
    try:
        while True:
            for pair in islice(coming, 4 * processes - len(ahead)):
                ahead.append((pair, pool.submit(build, pair, config)))
            if not ahead:
                return
            pair, future = ahead[0]
            yield pair, future.result()
            ahead.popleft()
    except BrokenProcessPool as error:
        near = f" near sample {ahead[0][0].key}" if ahead else ""
        raise InputError(
            f"a decoding process was killed{near}, perhaps for want of memory; set processes= lower"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _quiet() -> None:
    """One thread a process; damaged files are reported by us, not by OpenCV."""
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def _warnings(kept: dict[str, int], notes: Counter, medians: list[float], config: Config) -> list[str]:
    warnings = [f"{count} of {sum(kept.values())} samples: {note}" for note, count in sorted(notes.items())]
    if medians and config.unit == "depth" and np.median(medians) > FAR_AWAY:
        warnings.append(f"the median depth is {np.median(medians):.4g} m; is depth_scale=0.001 (millimetres) missing?")
    if sum(kept.values()) and not kept["val"]:
        warnings.append("no sample fell to val; a larger val_fraction= or split_by=sample makes a validation set")
    if sum(kept.values()) and not kept["train"]:
        warnings.append("no sample fell to train; a smaller val_fraction= leaves some")
    return warnings


def _by_reason(rejected: list[Rejected]) -> dict[str, int]:
    return dict(sorted(Counter(one.reason for one in rejected).items()))


def _keep_ledger(partial: Path, out: Path) -> Path:
    return (partial / REJECTED).rename(out.with_name(f"{out.name}.{REJECTED}"))


def _nothing_kept(config: Config, rejected: list[Rejected], ledger: Path) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in _by_reason(rejected).items())
    return (
        f"{config.source}: all {len(rejected)} samples were rejected ({reasons}), nothing was written; "
        f"all reasons: {ledger}; the first: {rejected[0].why}"
    )


def _commit(partial: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)
