"""Checkpoints: `checkpoints/step-00000100/` holds model.safetensors (weights by name), state.pt (optimiser, loops) and
meta.json (counter, config hash, data fingerprint, a checksum of each file); `checkpoints/last` is a link to the newest.

Written under a temporary name, flushed, renamed. A damaged one is recognised by its checksums and the one before is used.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import torch
import xxhash
from lightning.pytorch.plugins.io import CheckpointIO
from safetensors.torch import load_file, save_file

from vstrain.config.problems import InputError

log = logging.getLogger("vstrain")
WEIGHTS, STATE, META = "model.safetensors", "state.pt", "meta.json"


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's checkpoint dict to a directory and back. `facts` (counter-independent) go into every meta.json."""

    def __init__(self, facts: dict):
        self.facts = facts

    def save_checkpoint(self, checkpoint: dict, path, storage_options=None) -> None:
        path = Path(path)
        temporary = path.with_name(f".{path.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            state = dict(checkpoint)
            save_file(separate(state.pop("state_dict")), temporary / WEIGHTS)
            torch.save(state, temporary / STATE)
            meta = self.facts | {
                "step": checkpoint["global_step"],
                "samples_seen": checkpoint["samples_seen"],
                "files": {name: checksum(temporary / name) for name in (WEIGHTS, STATE)},
            }
            (temporary / META).write_text(json.dumps(meta, indent=2))
            for file in temporary.iterdir():
                sync(file)
            shutil.rmtree(path, ignore_errors=True)
            temporary.rename(path)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise InputError(
                f"{path}: cannot write the checkpoint ({error}); earlier checkpoints are untouched; free disk space "
                "and resume"
            ) from error

    def load_checkpoint(self, path, map_location=None, weights_only=None) -> dict:
        path = Path(path)
        state = torch.load(path / STATE, map_location="cpu", weights_only=True)
        return state | {"state_dict": load_file(path / WEIGHTS)}

    def remove_checkpoint(self, path) -> None:
        shutil.rmtree(path, ignore_errors=True)


def separate(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """safetensors refuses tensors that share memory (tied weights): give each name its own."""
    seen: set[int] = set()
    out = {}
    for name, tensor in tensors.items():
        shared = tensor.untyped_storage().data_ptr() in seen
        seen.add(tensor.untyped_storage().data_ptr())
        out[name] = (
            tensor.detach().clone(memory_format=torch.contiguous_format) if shared else tensor.detach().contiguous()
        )
    return out


def checksum(path: Path) -> dict:
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return {"bytes": path.stat().st_size, "xxh3": digest.hexdigest()}


def sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def name(step: int) -> str:
    return f"step-{step:08d}"


def point_last(folder: Path, step: int, keep: int) -> None:
    """Move `last` to the checkpoint of `step` and remove all but the newest `keep`."""
    link = folder / f".last.{os.getpid()}"
    link.symlink_to(name(step))
    link.replace(folder / "last")
    for old in sorted(folder.glob("step-*"))[:-keep]:
        if old.name != name(step):
            shutil.rmtree(old, ignore_errors=True)


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


def find(path: Path) -> tuple[Path, Path]:
    """(run directory, checkpoint) for a path that a user gave: a run directory, its checkpoints folder, or one checkpoint."""
    path = Path(path)
    if (path / META).is_file():
        checkpoint, run_dir = path.resolve(), path.resolve().parent.parent
    else:
        run_dir = path.parent if path.name == "checkpoints" else path
        if not (run_dir / "resolved.yaml").is_file():
            raise InputError(f"ckpt={path}: expected a run directory or one of its checkpoints (a folder with {META})")
        if (found := latest(run_dir)) is None:
            raise InputError(f"ckpt={path}: the run has no checkpoint yet")
        checkpoint = found[0]
    if meta(checkpoint) is None:
        raise InputError(f"ckpt={checkpoint}: damaged, a file does not match its checksum; use another checkpoint")
    return run_dir, checkpoint
