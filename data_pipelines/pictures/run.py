"""`vstrain data pictures`: unlabelled pictures, as shards of kind `image`.

walk the sources (sources) -> keep what the set counts (sets) -> look at every picture once (scan, examine) -> leave out what is
damaged, small, empty or there already (near) -> copy the rest in the tasks of a production, which writes the shards.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import xxhash

from data_pipelines.executors import Execution
from data_pipelines.pictures.config import Config
from data_pipelines.pictures.examine import decode
from data_pipelines.pictures.near import distance, near_duplicates
from data_pipelines.pictures.scan import FINE, MISSING, UNREADABLE, Scan, scan
from data_pipelines.pictures.sets import SETS
from data_pipelines.pictures.sources import Picture, Walked, forget, read, walk_sources
from data_pipelines.production.folder import REJECTED
from data_pipelines.production.plan import Made, Outcome, Plan, Rejected, Total
from data_pipelines.production.produce import produce
from vstrain.config.problems import InputError

ELSEWHERE = {"out", "overwrite", *Execution.model_fields}  # keys that change no byte

Progress = Callable[[str, int, int], None]  # stage, how many pictures are done, of how many


class Input(NamedTuple):
    """content: xxh3_64 of the bytes that were looked at. keeps: they can be stored as they are."""

    picture: Picture
    content: int
    keeps: bool
    longer: int  # pixels


@dataclass(frozen=True)
class Result:
    out: Path
    outcome: Outcome

    @property
    def text(self) -> str:
        """What to print: the counts, what was done to pictures, and what labels them."""
        summary = self.outcome.summary
        if summary is None:
            return (
                f"this job's part is done; {self.outcome.done} of {self.outcome.tasks} shards of {self.out} are there, and the "
                "job that writes the last one finishes the data set"
            )
        rejected = summary["rejected"]
        lines = [
            summary["pictures"],
            f"found {summary['found']} = kept {summary['kept']['train']} + rejected {sum(rejected.values())}"
            f" + left out by limit {summary['left_out']}",
        ]
        lines += [f"  rejected {count}: {reason}" for reason, count in rejected.items()]
        lines += [f"  every one with its reason: {self.out / REJECTED}"] if rejected else []
        lines += [f"  {count} pictures: {note}" for note, count in summary["notes"].items()]
        urls = shlex.quote(f'urls=["{self.out.absolute()}/train-*.tar"]')
        return "\n".join([*lines, f"label them: vstrain label ckpt=TEACHER {urls} output=LABELS"])


def run(config: Config, progress: Progress) -> Result:
    """Write `out`/train-*.tar, rejected.jsonl and, last, summary.json. Whenever it is stopped, the same call goes on.

    Raises InputError when the sources as a whole cannot be used."""
    forget()
    walked = walk_sources(config.sources, config.column)
    pictures = _counted(walked, config)
    chosen = sorted(pictures, key=lambda one: (_spot(config.seed, one.name), one.name))[: config.limit]
    chosen.sort(key=lambda one: (one.name, one.file))
    out = Path(config.out).expanduser() if config.out else Path("data") / Path(config.sources[0]).absolute().stem
    known = scan(chosen, out.with_name(f"{out.name}.scan"), config, progress)
    inputs, rejected = _sort_out(chosen, known, config)
    inputs.sort(key=lambda one: (_spot(config.seed, one.picture.block), one.picture.block, one.picture.name))
    plan = Plan(
        pipeline="pictures",
        kind="image",
        config=config.model_dump(exclude=ELSEWHERE),
        inputs={"train": inputs},
        shard_samples=config.shard_samples,
        shard_bytes=config.shard_bytes,
        jpeg_quality=config.jpeg_quality,
        rejected=(*walked.rejected, *rejected),
        left_out=len(pictures) - len(chosen),
    )
    words = partial(_words, _how(pictures, walked, config))
    make = partial(build, config=config)
    return Result(out, produce(plan, make, out, config, config.overwrite, progress, words))


def build(one: Input, config: Config) -> Made | Rejected:
    """The sample of a picture: its own bytes unless it must be turned, converted or shrunk."""
    picture = one.picture
    try:
        data = read(picture)
    except FileNotFoundError:
        return _gone(picture)
    if data is None or xxhash.xxh3_64_intdigest(data) != one.content:
        return _gone(picture)
    facts = {"source": _source(config), "look": config.look, "file": picture.name}
    shrinks = config.max_side is not None and one.longer > config.max_side
    found = decode(data) if shrinks or not one.keeps else None
    if found is None:
        return Made({"__key__": picture.key, _member(data): data, "json": facts})
    rgb = _shrunk(found.rgb, config.max_side) if shrinks else found.rgb
    notes = ([found.why] if found.why else []) + ([f"shrunk to {config.max_side} pixels"] if shrinks else [])
    return Made({"__key__": picture.key, "jpg": rgb, "json": facts}, tuple(notes))


def _gone(picture: Picture) -> Rejected:
    return Rejected(
        picture.name,
        "changed since it was looked at",
        f"{picture.where}: is not there or not the same any more; bring it back, or remove the folder .scan and begin anew",
    )


def _member(data: bytes) -> str:
    return {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp"}[data[:2]]


def _shrunk(rgb: np.ndarray, side: int) -> np.ndarray:
    height, width = (max(1, round(n * side / max(rgb.shape[:2]))) for n in rgb.shape[:2])
    return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)


def _counted(walked: Walked, config: Config) -> list[Picture]:
    """The pictures that the set counts."""
    known = SETS[config.layout]
    pictures = [picture for picture in walked.pictures if known.counts(picture.name)]
    if not pictures:
        found = f"{len(walked.pictures)} other pictures" if walked.pictures else "no picture"
        found += f", e.g. {walked.pictures[0].name}" if walked.pictures else ""
        what = "no pictures there" if config.layout == "own" else f"this is not the layout of {known.title}"
        raise InputError(
            f"{', '.join(config.sources)}: {what}: expected {known.expected}; found {found}{_ends(walked)}"
        )
    return pictures


def _ends(walked: Walked) -> str:
    counts = ", ".join(f"{count} {ending}" for ending, count in sorted(walked.other.items()))
    return f"; other files: {counts}" if counts else ""


def _how(pictures: list[Picture], walked: Walked, config: Config) -> str:
    said = f"{SETS[config.layout].title}: {len(pictures)} pictures"
    skipped = len(walked.pictures) - len(pictures)
    return said + (f"; {skipped} others are not of the set" if skipped else "") + _ends(walked)


def _source(config: Config) -> str:
    return config.layout if config.layout != "own" else Path(config.sources[0]).absolute().stem


def _spot(seed: int, name: str) -> int:
    return xxhash.xxh3_64_intdigest(f"{seed}/{name}".encode("utf-8", "replace"))


def _sort_out(pictures: list[Picture], known: Scan, config: Config) -> tuple[list[Input], list[Rejected]]:
    """What is kept, and why the rest is not. Of near-duplicates the first by name stays."""
    facts = known.facts
    rejected: dict[int, Rejected] = {}
    for reason, (wrong, sentence) in _limits(facts, config).items():
        for n in np.flatnonzero(wrong).tolist():
            said = known.why.get(n) or f"{pictures[n].where}: {sentence.format(**_seen(facts[n]))}"
            rejected.setdefault(n, Rejected(pictures[n].name, reason, said))
    fine = np.array([n for n in range(len(pictures)) if n not in rejected], np.int64)
    if config.duplicate_bits is not None:
        hashes = facts["hash"][fine]
        repeats = near_duplicates(hashes, config.duplicate_bits)
        for place in np.flatnonzero(repeats >= 0).tolist():
            first = int(repeats[place])
            bits = int(distance(hashes[[place]], hashes[[first]])[0])
            rejected[int(fine[place])] = _repeated(pictures[fine[place]], pictures[fine[first]], bits)
    inputs = [
        Input(picture, int(row["content"]), bool(row["keeps"]), int(max(row["height"], row["width"])))
        for n, (picture, row) in enumerate(zip(pictures, facts, strict=True))
        if n not in rejected
    ]
    return inputs, [rejected[n] for n in sorted(rejected)]


def _limits(facts: np.ndarray, config: Config) -> dict[str, tuple[np.ndarray, str]]:
    """reason -> (bool (N,): which pictures it leaves out, the sentence). The first reason that fits a picture counts."""
    short, long = (side(facts["width"], facts["height"]).astype(np.int64) for side in (np.minimum, np.maximum))
    fine = facts["state"] == FINE
    narrow = f"one side is more than max_aspect={config.max_aspect:g} times the other"
    flat = f"min_contrast={config.min_contrast:g} asks for more"
    return {
        "missing file": (facts["state"] == MISSING, ""),
        "unreadable image": (facts["state"] == UNREADABLE, ""),
        "too small": (fine & (short < config.min_side), f"{{size}} pixels, min_side={config.min_side} asks for more"),
        "too long and narrow": (fine & (long > config.max_aspect * short), f"{{size}} pixels, {narrow}"),
        "nearly one colour": (
            fine & (facts["contrast"] < config.min_contrast),
            f"its grey levels vary by {{contrast}}, {flat}",
        ),
    }


def _seen(facts: np.void) -> dict[str, str]:
    return {"size": f"{facts['width']}x{facts['height']}", "contrast": f"{facts['contrast']:.2g}"}


def _repeated(picture: Picture, first: Picture, bits: int) -> Rejected:
    said = f"{bits} of 64 bits differ from {first.name}, which stays; duplicate_bits=null keeps both"
    return Rejected(picture.name, "near-duplicate", f"{picture.where}: {said}")


def _words(how: str, total: Total) -> dict:
    return {"pictures": how, "notes": total.notes}
