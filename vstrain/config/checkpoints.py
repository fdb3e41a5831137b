"""Checkpoints on disk, without torch: which one of a run to use, and whether it is whole.

`checkpoints/step-00000100/` holds model.safetensors (weights by name), state.pt (optimiser, loops; none where weights were
adopted from elsewhere) and meta.json (counter, config hash, data fingerprint, a checksum of each file); `checkpoints/last`
is a link to the newest. vstrain.engine.checkpoint writes them.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import xxhash

from vstrain.config.problems import InputError

log = logging.getLogger("vstrain")
WEIGHTS, STATE, META = "model.safetensors", "state.pt", "meta.json"


def name(step: int) -> str:
    return f"step-{step:08d}"


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


def latest(run_dir: Path) -> tuple[Path, dict] | None:
    """The newest whole checkpoint of a run and its meta; says which ones were passed over. None: the run has none yet."""
    folder = run_dir / "checkpoints"
    candidates = sorted(folder.glob("step-*"), reverse=True)
    for path in candidates:
        if facts := meta(path):
            return path, facts
        log.warning("%s is damaged or half-written; using the checkpoint before it", path)
    if candidates:
        raise InputError(
            f"{folder}: none of its {len(candidates)} checkpoints is whole; restore one or start a new run"
        )
    return None


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
