"""Writing and reading checkpoints (vstrain.config.checkpoints has their layout).

Written under a temporary name, flushed, renamed. A damaged one is recognised by its checksums and the one before is used.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from safetensors.torch import load_file, save_file

from vstrain.config import checkpoints
from vstrain.config.problems import InputError


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's checkpoint dict to a directory and back. `facts` (counter-independent) go into every meta.json."""

    def __init__(self, facts: dict):
        self.facts = facts

    def save_checkpoint(self, checkpoint: dict, path, storage_options=None) -> None:
        state = dict(checkpoint)
        weights = state.pop("state_dict")
        counters = {"step": checkpoint["global_step"], "samples_seen": checkpoint["samples_seen"]}
        write(Path(path), weights, state, self.facts | counters)

    def load_checkpoint(self, path, map_location=None, weights_only=None) -> dict:
        path = Path(path)
        state = torch.load(path / checkpoints.STATE, map_location="cpu", weights_only=True)
        return state | {"state_dict": load_file(path / checkpoints.WEIGHTS)}

    def remove_checkpoint(self, path) -> None:
        shutil.rmtree(path, ignore_errors=True)


def write(path: Path, weights: dict[str, torch.Tensor], state: dict | None, facts: dict) -> None:
    """A whole checkpoint folder, in place of the one that may be there; `state` None: weights alone, nothing to resume."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        save_file(separate(weights), temporary / checkpoints.WEIGHTS)
        if state is not None:
            torch.save(state, temporary / checkpoints.STATE)
        files = {file.name: checkpoints.checksum(file) for file in sorted(temporary.iterdir())}
        (temporary / checkpoints.META).write_text(json.dumps(facts | {"files": files}, indent=2))
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


def sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def point_last(folder: Path, step: int, keep: int) -> None:
    """Move `last` to the checkpoint of `step` and remove all but the newest `keep`."""
    link = folder / f".last.{os.getpid()}"
    link.symlink_to(checkpoints.name(step))
    link.replace(folder / "last")
    for old in sorted(folder.glob("step-*"))[:-keep]:
        if old.name != checkpoints.name(step):
            shutil.rmtree(old, ignore_errors=True)
