"""`vstrain data depth_corpus`: a user's images with depth, as shards of kind `depth`.

find pairs (layouts, folder, manifest, saved) -> choose, order and split them by hash -> build each one (sample) in the tasks of
a production, which writes the shards.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import xxhash

from data_pipelines.depth_corpus import folder, manifest, saved
from data_pipelines.depth_corpus.config import Config
from data_pipelines.depth_corpus.layouts import find as layouts
from data_pipelines.depth_corpus.layouts.table import OWN
from data_pipelines.depth_corpus.pairs import Found, Pair, clean_keys
from data_pipelines.depth_corpus.sample import build
from data_pipelines.executors import Execution
from data_pipelines.production.folder import REJECTED
from data_pipelines.production.plan import Outcome, Plan, Total
from data_pipelines.production.produce import produce
from vstrain.config.problems import InputError

FAR_AWAY = 10_000  # metres; a typical distance beyond this is a forgotten scale
ELSEWHERE = {"out", "overwrite", *Execution.model_fields}  # keys that change no byte

Progress = Callable[[str, int, int], None]  # split, how many inputs are done, of how many


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


@dataclass(frozen=True)
class Unfinished:
    """Other jobs have shards to write."""

    out: Path
    outcome: Outcome

    @property
    def text(self) -> str:
        return (
            f"this job's part is done; {self.outcome.done} of {self.outcome.tasks} shards of {self.out} are there, and the job "
            "that writes the last one finishes the data set"
        )


def run(config: Config, progress: Progress) -> Result | Unfinished:
    """Write `out`/{train,val}-*.tar, rejected.jsonl and, last, summary.json. Whenever it is stopped, the same call goes on.

    The same input and config give the same bytes, wherever and in how many processes it runs. Raises InputError when the
    input as a whole cannot be used."""
    found = _find(config)
    pairs, left_out = _choose(found.pairs, config)
    out = Path(config.out).expanduser() if config.out else Path("data") / Path(config.source).absolute().stem
    plan = Plan(
        pipeline="depth_corpus",
        kind="depth",
        config=config.model_dump(exclude=ELSEWHERE),
        inputs={split: [pair for pair in pairs if pair.split == split] for split in ("train", "val")},
        shard_samples=config.shard_samples,
        shard_bytes=config.shard_bytes,
        jpeg_quality=config.jpeg_quality,
        rejected=tuple(found.rejected),
        left_out=left_out,
    )
    words = partial(_words, found.how, config)
    outcome = produce(plan, partial(build, config=config), out, config, config.overwrite, progress, words)
    if outcome.summary is None:
        return Unfinished(out, outcome)
    keys = ("found", "kept", "rejected", "left_out", "pairing", "warnings")
    return Result(out, **{key: outcome.summary[key] for key in keys})


def _words(how: str, config: Config, total: Total) -> dict:
    return {"pairing": how, "warnings": _warnings(total, config)}


def _find(config: Config) -> Found:
    source = Path(config.source).expanduser()
    if not source.exists():
        raise InputError(f"{source}: no such source; expected a folder or a .csv, .tsv or .jsonl manifest")
    if config.layout != OWN:
        found = layouts.find(source, config)
    elif source.is_dir():
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


def _warnings(total: Total, config: Config) -> list[str]:
    kept, medians = total.kept, total.values.get("median", [])
    warnings = [f"{count} of {sum(kept.values())} samples: {note}" for note, count in total.notes.items()]
    if medians and config.rules.unit == "depth" and config.rules.metric and np.median(medians) > FAR_AWAY:
        warnings.append(f"the median depth is {np.median(medians):.4g} m; is depth_scale=0.001 (millimetres) missing?")
    if not kept["val"]:
        warnings.append("no sample fell to val; a larger val_fraction= or split_by=sample makes a validation set")
    if not kept["train"]:
        warnings.append("no sample fell to train; a smaller val_fraction= leaves some")
    return warnings
