"""A checkpoint's folder: written under a temporary name, checked, flushed, renamed. Until then nobody sees it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
import xxhash

from vstrain.config import checkpoints, tensorfiles
from vstrain.config.problems import InputError
from vstrain.config.schema import Checkpoint
from vstrain.data.atomic import sync_folder
from vstrain.engine.checkpoint.pieces import DTYPES, Piece, piece


def temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def write_files(folder: Path, state: dict[str, dict[str, Piece]], rank: int, world: int) -> dict[str, dict]:
    """The files of one rank (of `world` that write) and their checksums."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        file: write_file(folder / file, pieces)
        for part, pieces in state.items()
        if pieces and (file := checkpoints.file_name(part, rank, world))
    }


def write_file(path: Path, pieces: dict[str, Piece]) -> dict:
    """One safetensors file, flushed and read back; its checksum."""
    layouts = {
        name: tensorfiles.Layout(
            DTYPES[one.tensor.dtype], one.shape, None if one.whole else one.start, one.tensor.numel()
        )
        for name, one in pieces.items()
    }
    head, order = tensorfiles.header(layouts)
    digest = xxhash.xxh3_64(head)
    with path.open("wb") as file:
        file.write(head)
        for name in order:
            data = pieces[name].tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
            digest.update(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    found = checkpoints.checksum(path)
    if found["xxh3"] != digest.hexdigest():
        raise OSError(f"{path.name} does not read back as it was written")
    return found


def publish(path: Path, facts: dict, policy: Checkpoint) -> None:
    """The checkpoint whose files all ranks have written becomes visible, and the newest; old ones go."""
    commit(path, facts)
    point_last(path)
    prune(path, policy)


def commit(path: Path, facts: dict) -> None:
    """meta.json beside the files, and the final name, in place of a checkpoint that may be there."""
    folder = temporary(path)
    with (folder / checkpoints.META).open("w") as file:
        json.dump(facts, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)
    shutil.rmtree(path, ignore_errors=True)
    folder.rename(path)
    sync_folder(path.parent)


def point_last(path: Path) -> None:
    link = path.with_name(f".last.{os.getpid()}")
    link.unlink(missing_ok=True)
    link.symlink_to(path.name)
    link.replace(path.with_name("last"))
    sync_folder(path.parent)


def prune(newest: Path, policy: Checkpoint) -> None:
    """Remove the checkpoints that the policy does not keep; those of a later step are of another past and go as well."""
    found = {}
    for path in newest.parent.glob("step-*"):
        try:
            facts = json.loads((path / checkpoints.META).read_text())
        except (OSError, ValueError):
            facts = {}
        found[path] = facts.get("metrics", {}).get(policy.best.metric) if policy.best else None
    steps = {path: int(path.name.removeprefix("step-")) for path in found}
    past = {path: value for path, value in found.items() if steps[path] <= steps[newest]}
    keep = checkpoints.kept({steps[path]: value for path, value in past.items()}, policy)
    for path in found:
        if path not in past or steps[path] not in keep:
            shutil.rmtree(path, ignore_errors=True)


def clear(folder: Path) -> None:
    """What a process that was killed while writing has left."""
    for path in folder.glob(".step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def failure(path: Path, reason: str) -> str:
    return (
        f"{path}: cannot write the checkpoint ({reason}); earlier checkpoints are untouched; free disk space and resume"
    )


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> dict:
    """Whole tensors as a safetensors file; they may share memory. Its checksum."""
    return write_file(path, {name: piece(value.cpu(), 0) for name, value in tensors.items()})


def write(path: Path, weights: dict[str, torch.Tensor], facts: dict) -> None:
    """A checkpoint of weights alone, by one process."""
    try:
        temporary(path).mkdir(parents=True, exist_ok=True)
        files = {checkpoints.WEIGHTS: write_tensors(temporary(path) / checkpoints.WEIGHTS, weights)}
        commit(path, facts | {"values": {}, "files": files})
    except OSError as error:
        shutil.rmtree(temporary(path), ignore_errors=True)
        raise InputError(failure(path, str(error))) from error
