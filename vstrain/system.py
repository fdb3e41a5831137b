"""The contract between the house and a system: one folder, found by name (`system.module`).

A system package P has
    P.config   `Config(SystemConfig)`: its keys, torch-free.
    P.prepare  `prepare(sample, config, rng, training) -> dict[str, np.ndarray]`: one decoded sample (see
               vstrain.data.kinds) to one training item of fixed shape and finite numbers: another one counts as damaged.
               NumPy and OpenCV only; it runs in data workers.
               All randomness comes from `rng`, an np.random.Generator that belongs to this sight of this sample.
    P.module   `System(vstrain.system.System)`: the networks and their objective.
and, where it can,
    P.evaluate `report(system, train_batches, val_batches) -> Report`: the numbers worth printing when training ends.
    P.protocols  named evaluations on a user's data sets, torch-free until evaluated: `PROTOCOLS`, name -> class of its keys
               (conf/protocol/NAME.yaml); `check(options, config)`, in the parent, raises InputError for missing or other input;
               `evaluate(system, options, samples: int | None, out: Path, progress(done, total)) -> Report`.
    P.predict  `predict(system, inputs: list[Path], out: Path, progress(done, total)) -> Prediction`: results for a user's files.
    P.label    `Labeller`: labels for pictures that have none (see vstrain.engine.label).
    P.export   `export(system, out: Path) -> list[Path]`: the layout that other libraries open.
    P.weights  `adopt(path, stated) -> (keys, fill)`: weights made elsewhere, the keys of the Config that they decide, and what
               copies them into a System (`vstrain adopt`). stated: the keys that the user gave.

A batch is what `prepare` returned, stacked to torch tensors, plus
    key     (B,) int64    keys all random draws of the step (vstrain.data.keyed.normal and friends)
    weight  (B,) float32  1 for a sample, 0 for the padding that keeps validation batches even across ranks
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from vstrain.config.schema import SystemConfig


class Objective(NamedTuple):
    loss: Tensor  # scalar: the mean over the samples of this batch, so that equal shares of ranks average exactly
    metrics: dict[str, Tensor]  # scalars, logged as train/<name>


@dataclass
class ParamGroup:
    name: str
    params: list[torch.nn.Parameter]
    lr_scale: float = 1.0  # times optim.lr
    weight_decay: float | None = None  # None: optim.weight_decay


@dataclass
class Report:
    metrics: dict[str, float]  # written to report.json
    text: str  # printed when the run ends
    pictures: dict[str, np.ndarray] = field(default_factory=dict)  # name -> (H, W, 3) uint8
    facts: dict[str, Any] = field(default_factory=dict)  # what pins the numbers, written beside them


@dataclass
class Prediction:
    written: list[Path]
    refused: list[tuple[Path, str]]  # input, one sentence that names it and says why


class System(lightning.LightningModule):
    """Single-device code. Building a Trainer, strategies, logging and checkpoints are the engine's business."""

    def __init__(self, config: SystemConfig):
        super().__init__()
        self.config = config
        self._built = False
        self.trains = True  # False: only the model itself is wanted, without what helps in training
        # the engine sets these two; used outside the house, a system stays as it is and trains with plain AdamW
        self.after_build: Callable[[System], None] = lambda system: None
        self.make_optimizer: Callable[[list[ParamGroup]], torch.optim.Optimizer] = _plain_adamw

    # ---- what a system writes -------------------------------------------------------------------------------------

    def build(self) -> None:
        """Create the networks as attributes. Called once, maybe under a meta device; parameters that can never get a
        gradient must be frozen here (plain DDP has to run)."""
        raise NotImplementedError

    def objective(self, batch: dict[str, Tensor]) -> Objective:
        """The training loss of one micro-batch."""
        raise NotImplementedError

    def evaluate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Per-sample metrics (B,), float; logged as val/<name> after a weighted mean over every validation sample."""
        raise NotImplementedError

    def pictures(self, batch: dict[str, Tensor]) -> dict[str, np.ndarray]:
        """Pictures of the first validation batch, name -> (H, W, 3) uint8."""
        return {}

    def blocks(self) -> list[nn.Module]:
        """The repeated parts of the networks, disjoint, each called through its forward: units of sharding, activation
        checkpointing and compilation. Those of `Frozen` helpers too, which are no submodules."""
        return []

    def param_groups(self) -> list[ParamGroup]:
        """Trainable parameters with their own rates; one group with everything by default."""
        return [ParamGroup("all", [p for p in self.parameters() if p.requires_grad])]

    @property
    def device(self) -> torch.device:
        """Where the weights are; Lightning's own record of it does not follow `to_empty`."""
        return next((parameter.device for parameter in self.parameters()), super().device)

    # ---- what Lightning calls -------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        if not self._built:
            self.build()
            self.after_build(self)
            self._built = True

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict:
        objective = self.objective(batch)
        # Lightning divides "loss" by the accumulated micro-batches; the metrics keep it as it is
        metrics = {"loss": objective.loss, **objective.metrics}
        return {"loss": objective.loss, "metrics": {name: value.detach() for name, value in metrics.items()}}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.make_optimizer(self.param_groups())


def _plain_adamw(groups: list[ParamGroup]) -> torch.optim.Optimizer:
    return torch.optim.AdamW([parameter for group in groups for parameter in group.params], lr=1e-4)
