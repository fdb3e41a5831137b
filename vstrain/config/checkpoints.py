"""Checkpoints on disk, without torch: which one of a run to use, which ones to keep, and whether one is whole.

`checkpoints/step-00000100/` holds safetensors files and meta.json. Each part of the state (model, optimizer, ema, …; adopted
weights have only model) is PART.safetensors or, where ranks wrote what they held, PART-00000-of-00004.safetensors and so on
(vstrain.config.tensorfiles). meta.json: counter, config hash, data fingerprint, plain values of the parts, a checksum of each
file. `checkpoints/last` is a link to the newest. vstrain.engine.checkpoint writes them.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import xxhash

from vstrain.config import rundir, tensorfiles
from vstrain.config.problems import InputError
from vstrain.config.schema import Checkpoint

log = logging.getLogger("vstrain")
WEIGHTS, META = "model.safetensors", "meta.json"


def name(step: int) -> str:
    return f"step-{step:08d}"


def file_name(part: str, rank: int, world: int) -> str:
    return f"{part}.safetensors" if world == 1 else f"{part}-{rank:05d}-of-{world:05d}.safetensors"


def files(path: Path, part: str) -> list[Path]:
    """The files of a part of a checkpoint: one that is whole, or all that hold pieces."""
    whole = path / f"{part}.safetensors"
    return [whole] if whole.is_file() else sorted(path.glob(f"{part}-*-of-*.safetensors"))


def weights(path: Path, part: str = "model") -> Path:
    """The file that holds a part of a checkpoint whole; from pieces it is made once, and then belongs to the checkpoint."""
    whole = path / f"{part}.safetensors"
    if not whole.is_file():
        pieces = files(path, part)
        if not pieces:
            raise InputError(f"{path}: holds no {part}; use another checkpoint")
        tensorfiles.consolidate(pieces, whole)
        accept(whole)
    return whole


def accept(file: Path) -> None:
    """A new or changed file of a checkpoint: its checksum goes into meta.json."""
    meta_file = file.parent / META
    facts = json.loads(meta_file.read_text())
    facts["files"][file.name] = checksum(file)
    rundir.write_atomic(meta_file, json.dumps(facts, indent=2))


def weight_files(path: Path, averaged: bool = True) -> list[Path]:
    """The files that make up the model of a checkpoint; where they share a name the later one counts. averaged: take the
    moving average of the weights where the checkpoint has one that has begun."""
    facts = json.loads((path / META).read_text())
    begun = facts.get("values", {}).get("ema", {}).get("begun")
    return [weights(path), *([weights(path, "ema")] if averaged and begun else [])]


def checksum(path: Path) -> dict:
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return {"bytes": path.stat().st_size, "xxh3": digest.hexdigest()}


def meta(path: Path) -> dict | None:
    """meta.json of a whole checkpoint; None when a file is missing or does not match its checksum."""
    try:
        facts = json.loads((path / META).read_text())
        whole = all(checksum(path / file) == expected for file, expected in facts["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return facts if whole else None


def latest(run_dir: Path, before: int | None = None) -> tuple[Path, dict] | None:
    """The newest whole checkpoint of a run (of those before a step) and its meta; says which ones were passed over. None:
    there is none yet."""
    folder = run_dir / "checkpoints"
    found = sorted(folder.glob("step-*"), reverse=True)
    candidates = [path for path in found if before is None or path.name < name(before)]
    for path in candidates:
        if facts := meta(path):
            return path, facts
        log.warning("%s is damaged or half-written; using the checkpoint before it", path)
    if candidates:
        raise InputError(
            f"{folder}: none of its {len(candidates)} checkpoints is whole; restore one or start a new run"
        )
    return None


def kept(found: dict[int, float | None], policy: Checkpoint) -> set[int]:
    """Which steps stay, of those `found` with the value of the metric that decides on the best (None: not measured)."""
    newest = sorted(found)[-policy.keep :]
    for_ever = [step for step in found if policy.keep_every and step % policy.keep_every == 0]
    best: list[int] = []
    if policy.best:
        sign = 1 if policy.best.mode == "min" else -1
        measured = [step for step, value in found.items() if value is not None and value == value]
        best = sorted(measured, key=lambda step: (sign * found[step], step))[: policy.best.keep]
    return {*newest, *for_ever, *best}


def is_run(path: Path) -> bool:
    """Whether `find` would look for a checkpoint there."""
    folders = (path, path.parent if path.name == "checkpoints" else path)
    return (path / META).is_file() or any((folder / "resolved.yaml").is_file() for folder in folders)


def find(path: Path, key: str) -> tuple[Path, Path]:
    """(run directory, checkpoint) for a path that a user gave under `key`: a run directory, its checkpoints folder, or one
    checkpoint."""
    path = Path(path)
    if (path / META).is_file():
        checkpoint, run_dir = path.resolve(), path.resolve().parent.parent
    else:
        run_dir = path.parent if path.name == "checkpoints" else path
        if not (run_dir / "resolved.yaml").is_file():
            raise InputError(f"{key}={path}: expected a run directory or one of its checkpoints (a folder with {META})")
        if (found := latest(run_dir)) is None:
            raise InputError(f"{key}={path}: the run has no checkpoint yet")
        checkpoint = found[0]
    if meta(checkpoint) is None:
        raise InputError(f"{key}={checkpoint}: damaged, a file does not match its checksum; use another checkpoint")
    return run_dir, checkpoint
