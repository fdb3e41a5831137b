"""What a checkpoint holds, as live pieces: `model`, `optimizer`, and the parts that others add, e.g. `ema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch import Trainer

from vstrain.config import checkpoints
from vstrain.config.problems import InputError
from vstrain.engine.build import share
from vstrain.engine.checkpoint.pieces import Piece, Reader, piece

State = dict[str, dict[str, Piece]]  # part -> full name -> piece


class Stateful(Protocol):
    """A further part. `state_dict` is flat: tensors (DTensors, Pieces) that are its live memory, and plain numbers or
    texts. Loading copies into those tensors, then hands the dictionary back, with the checkpoint's numbers in it."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def collect(trainer: Trainer, parts: dict[str, Stateful]) -> tuple[State, dict[str, dict]]:
    """(the pieces of this rank, the plain values of every part)."""
    state, values = native(trainer), {}
    for part, owner in parts.items():
        everything = owner.state_dict()
        state[part] = {name: piece(value, share().rank) for name, value in everything.items() if _is_tensor(value)}
        values[part] = {name: value for name, value in everything.items() if not _is_tensor(value)}
    return state, values


def native(trainer: Trainer) -> State:
    """Model and optimiser, as the strategy of `trainer` holds them."""
    if zero := getattr(trainer.strategy, "state", None):
        return zero.pieces()
    rank, system = share().rank, trainer.lightning_module
    model = system.state_dict(keep_vars=True)  # under FSDP2 this also takes gathered weights apart again
    names = {id(parameter): name for name, parameter in system.named_parameters()}
    moments = {
        f"{names[id(parameter)]}/{key}": value
        for optimizer in trainer.optimizers
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }
    return {
        "model": {name: piece(value, rank) for name, value in model.items()},
        "optimizer": {name: piece(value, rank) for name, value in moments.items()},
    }


def load(path: Path, trainer: Trainer, parts: dict[str, Stateful]) -> None:
    """Put the checkpoint `path` into the model, optimiser and parts of a run that is set up but has not trained."""
    facts = json.loads((path / checkpoints.META).read_text())
    readers = {part: Reader(checkpoints.files(path, part)) for part in ("model", "optimizer", *parts)}
    begin_moments(trainer, readers["optimizer"])
    state, values = collect(trainer, parts)
    if foreign := readers["model"].entries.keys() - trainer.lightning_module.state_dict(keep_vars=True).keys():
        raise InputError(f"{path}: has {min(foreign)}, which this run's model has not")
    for part, pieces in state.items():
        if part in parts and part not in facts["values"]:
            raise InputError(f"{path}: holds no {part}; turn it off, or start a new run")
        for name, one in pieces.items():
            readers[part].fill(name, one)
    for part, owner in parts.items():
        owner.load_state_dict(owner.state_dict() | facts["values"][part])
    if zero := getattr(trainer.strategy, "state", None):
        zero.filled()


def begin_moments(trainer: Trainer, reader: Reader) -> None:
    """Memory for what the optimiser remembers of each parameter, which it would make at its first step."""
    if zero := getattr(trainer.strategy, "state", None):
        zero.begin_moments()
        return
    keys: dict[str, list[str]] = {}
    for entry in reader.entries:
        name, _, key = entry.rpartition("/")
        keys.setdefault(name, []).append(key)
    names = {id(parameter): name for name, parameter in trainer.lightning_module.named_parameters()}
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            on_device = group.get("fused") or group.get("capturable")
            for parameter in group["params"]:
                name = names[id(parameter)]
                for key in keys.get(name, ()):
                    like = reader.entries[f"{name}/{key}"][0].shape == tuple(parameter.shape)
                    optimizer.state[parameter][key] = (
                        torch.zeros_like(parameter)
                        if like and key != "step"
                        else torch.zeros((), device=parameter.device if on_device else "cpu")
                    )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor | Piece)
