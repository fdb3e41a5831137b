"""Exponential moving average of the trained weights: what validation, predict, eval, export and label use by default.

Lightning's EMAWeightAveraging (2.6) copies the whole system, frozen networks too, averages in the weights' own precision,
and says itself that it does not know sharded weights. This one averages, in float32, the pieces that a rank holds: rows under
FSDP2, DeepSpeed's float32 partitions under ZeRO. The update is element by element, so it is the same under every strategy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.distributed.fsdp import FSDPModule

from vstrain.config.schema import Ema
from vstrain.engine.checkpoint.pieces import Piece
from vstrain.engine.checkpoint.state import native


class Average:
    """A part of the checkpoint. Frozen weights and buffers are not averaged: the model's own stand for them."""

    def __init__(self, config: Ema, trainer: Trainer):
        """At step 0 of a run, or before a checkpoint is loaded into it."""
        self.config, self.trainer, self.begun = config, trainer, config.start == 0
        trained = {name for name, p in trainer.lightning_module.named_parameters() if p.requires_grad}
        model = native(trainer)["model"]
        self.weights: dict[str, Piece] = {name: model[name] for name in model if name in trained}
        self.average = {name: replace(p, tensor=p.tensor.float().clone()) for name, p in self.weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimiser step number `step`, counted from 1."""
        config = self.config
        number, odd = divmod(step - config.start, config.every)
        if odd or number < 0:
            return
        if number == 0:
            self.begun = True
        share = 1.0 if number == 0 else 1 - decay(config, number)
        values = [piece.tensor.float() for piece in self.weights.values()]
        if values:
            torch._foreach_lerp_([piece.tensor for piece in self.average.values()], values, share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The system computes with the averaged weights; afterwards it has its own again, bit for bit."""
        if not self.begun:
            yield
            return
        kept = {name: piece.tensor.clone() for name, piece in self.weights.items()}
        self._put({name: piece.tensor for name, piece in self.average.items()})
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, values: dict[str, torch.Tensor]) -> None:
        for name, piece in self.weights.items():
            piece.tensor.copy_(values[name])
        if zero := getattr(self.trainer.strategy, "state", None):
            zero.hand_on()
        for module in self.trainer.lightning_module.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # weights that an evaluation left gathered are not these

    def state_dict(self) -> dict[str, Any]:
        return {**self.average, "begun": int(self.begun)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.begun = bool(state["begun"])


def decay(config: Ema, number: int) -> float:
    """Of the update `number`, counted from 1."""
    match config.warmup:
        case "ratio":
            return min(config.decay, (1 + number) / (10 + number))
        case "power":
            return min(config.decay, 1 - (1 + number) ** -config.power)
    return config.decay
