"""Stands between backward pass and optimiser step: gathers what the rank saw, has it judged, and sees the judgement done."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from vstrain.config.schema import TrainConfig
from vstrain.engine.guards import StopFlag
from vstrain.engine.health import gradients
from vstrain.engine.health.lockstep import Seen
from vstrain.engine.health.meter import Meter
from vstrain.engine.health.policy import Decision, Guard
from vstrain.engine.health.quarantine import Quarantine, weights_name
from vstrain.engine.health.supply import Supply
from vstrain.system import System

log = logging.getLogger("vstrain")


class Sentry:
    """`decision` is the judgement on the last step: all ranks hold the same."""

    def __init__(self, config: TrainConfig, run_dir: Path, stop: StopFlag, facts: dict[str, str], meter: Meter):
        self.config, self.run_dir, self.stop, self.facts, self.meter = config, run_dir, stop, facts, meter
        self.guard = Guard(config.guards)
        self.supply: Supply | None = None
        self.losses: list[torch.Tensor] = []
        self.keys: list[int] = []
        self.decision: Decision | None = None

    def start(self, rank: int, world: int) -> None:
        self.quarantine = Quarantine(self.config, self.run_dir, self.facts, rank, world)

    def begin(self, batch: dict, key: int) -> None:
        """A micro-batch, and the key that torch's random state was set to for it."""
        self.quarantine.hold(batch)
        self.keys.append(key)

    def loss(self, loss: torch.Tensor) -> None:
        """Of a micro-batch, as it goes into the backward pass: already divided by their number."""
        self.losses.append(loss.detach().double() * self.config.trainer.accumulate)

    def judge(self, trainer: Trainer, optimizer: torch.optim.Optimizer) -> None:
        """Before the optimiser step, which this may clip or keep from happening."""
        if len(self.losses) < self.config.trainer.accumulate:
            return  # DeepSpeed comes by after every micro-batch
        found = gradients.of(trainer, optimizer)
        same = {"config": self.facts["config"], "data": self.facts["data"], "step": trainer.global_step + 1}
        exhausted = self.supply is not None and self.supply.exhausted
        # on a GPU this is where the host waits for the backward pass: the judgement must not come a step late
        *losses, norm_squared = torch.stack([*self.losses, found.norm_squared()]).tolist()
        seen = Seen(self.stop.raised is not None, exhausted, losses, norm_squared, same)
        with self.meter.inside("agreement"):
            self.decision = self.guard.judge(seen, trainer.strategy.root_device)
        if self.decision.skip:
            found.drop()
        elif self.config.optim.clip:
            found.clip(self.config.optim.clip, self.decision.agreed.norm)

    def close(self, trainer: Trainer, system: System, losses: list[torch.Tensor]) -> Decision:
        """After the step: what was wrong is said and kept, and raised if it ends the run. `losses`: of the micro-batches."""
        decision, step = self.decision, trainer.global_step
        if decision.reason:
            if trainer.is_global_zero:
                log.warning("%s", decision.reason)
            self._keep(decision, step, system, losses)
        self.losses, self.keys = [], []
        self.quarantine.release()
        if decision.error:
            raise decision.error
        return decision

    def _keep(self, decision: Decision, step: int, system: System, losses: list[torch.Tensor]) -> None:
        suspects = decision.suspects
        if self.config.guards.weights and self.quarantine.room > 0:
            self.quarantine.write_weights(step, system, suspects[0])
        if self.quarantine.rank not in suspects:
            return
        last = len(losses) - 1
        micro = [
            {
                "loss": str(float(loss)),
                "torch_key": self.keys[number],
                "samples": self.supply.contents(last - number) if self.supply else [],
            }
            for number, loss in enumerate(losses)
        ]
        agreed = {"loss": str(decision.agreed.loss), "grad_norm": str(decision.agreed.norm)}
        agreed["weights"] = weights_name(step) if self.config.guards.weights else None
        folder = self.quarantine.write(step, decision.reason, micro, agreed)
        if folder:
            log.warning("its batch is kept: vstrain replay %s", folder)
