"""What happens between two optimiser steps, in this order: agree on whether the step is taken, log, validate, save."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from pathlib import Path

import cv2
import torch
from lightning.pytorch import Callback, Trainer

from vstrain.config.problems import InputError
from vstrain.config.schema import TrainConfig
from vstrain.data.keyed import draw_key
from vstrain.engine import build, checkpoint, guards, strategies
from vstrain.engine.console import StepProgress
from vstrain.engine.ema import Average
from vstrain.engine.health import lockstep
from vstrain.engine.health.meter import Meter
from vstrain.engine.health.record import Record
from vstrain.engine.health.sentry import Sentry
from vstrain.engine.validation import validate
from vstrain.system import System

log = logging.getLogger("vstrain")
GRACE = 60  # seconds that a checkpoint in the making gets when training fails


class StepBoundary(Callback):
    """The one callback of a run. `stopped` says whether it ended early on a signal."""

    def __init__(
        self,
        config: TrainConfig,
        run_dir: Path,
        batches: build.Batches,
        stop: guards.StopFlag,
        start_step: int,
        facts: dict[str, str],
        resumed: Path | None = None,
        until: int | None = None,
    ):
        """facts: what all ranks must share and each checkpoint remembers. resumed: the checkpoint that start_step is from.
        until: a step after which to stop."""
        self.config, self.run_dir, self.batches = config, run_dir, batches
        self.stop, self.start_step, self.facts, self.resumed = stop, start_step, facts, resumed
        self.until, self.average = until, None
        self.stopped = False
        self.meter = Meter(start_step)
        self.sentry = Sentry(config, run_dir, stop, facts, self.meter)
        # what a checkpoint holds beside model and optimiser; others may add theirs until training starts
        self.parts: dict[str, checkpoint.Stateful] = {"guards": self.sentry.guard}
        self._metrics: list[dict[str, torch.Tensor]] = []

    def on_train_start(self, trainer: Trainer, system: System) -> None:
        lockstep.check_same(self.facts)
        self.sentry.start(trainer.global_rank, trainer.world_size)
        self.stop.install()  # after Lightning has put its own handlers in place
        share = build.share()
        writers = share.world if strategies.is_spread(trainer) else 1
        folder, policy = self.run_dir / "checkpoints", self.config.callbacks.checkpoint
        self.saver = checkpoint.Saver(folder, policy, self.facts, share, writers)
        if self.config.ema.decay is not None:
            self.average = self.parts["ema"] = Average(self.config.ema, trainer)
        if self.resumed:
            checkpoint.load(self.resumed, trainer, self.parts)
        self.progress = StepProgress(self.config.trainer.max_steps, self.start_step)
        self.record = Record(self.config, self.run_dir, self.meter, trainer)

    def on_train_batch_start(self, trainer: Trainer, system: System, batch: dict, batch_idx: int) -> None:
        """Rates and what is left to global random state (dropout) are functions of the counter, not of history."""
        config, step = self.config, trainer.global_step
        micro = trainer.global_rank * config.trainer.accumulate + batch_idx % config.trainer.accumulate
        key = draw_key(config.seed, step, micro)
        seed(key, trainer.strategy.root_device)
        self.sentry.begin(batch, key)
        self.record.begin(step)
        factor = build.rate_factor(config.schedule, step, config.trainer.max_steps)
        for optimizer in trainer.optimizers:
            build.set_learning_rate(optimizer, config.optim, factor)

    def on_before_backward(self, trainer: Trainer, system: System, loss: torch.Tensor) -> None:
        self.sentry.loss(loss)
        self.meter.enter("backward")

    def on_before_optimizer_step(self, trainer: Trainer, system: System, optimizer: torch.optim.Optimizer) -> None:
        self.sentry.judge(trainer, optimizer)
        self.meter.enter("optimiser")

    def on_train_batch_end(self, trainer: Trainer, system: System, outputs: dict, batch: dict, batch_idx: int) -> None:
        self.record.end(batch)
        self._metrics.append(outputs["metrics"])
        if (batch_idx + 1) % self.config.trainer.accumulate:
            return
        with self.meter.inside("log"):
            self._close_step(trainer, system)

    def _close_step(self, trainer: Trainer, system: System) -> None:
        step, last = trainer.global_step, trainer.global_step == self.config.trainer.max_steps
        decision = self.sentry.close(trainer, system, [metrics["loss"] for metrics in self._metrics])
        logged = step % self.config.trainer.log_every == 0 or last
        loss = self._log(trainer, step) if logged else None
        self.progress.step(step, loss, logged)
        self._metrics = []
        if self.average:
            self.average.update(step)
        self.saver.poll()
        scores = {}
        if step % self.config.callbacks.validation.every == 0 or last:
            with self.meter.inside("validation"):
                scores = self._validate(trainer, system, step)
        stop = decision.agreed.stop or step == self.until
        if step % self.config.callbacks.checkpoint.every == 0 or last or stop:
            with self.meter.inside("save"):
                self._save(trainer, step, scores, wait=last or stop)
            self.record.saved(step)
        if stop and not last:
            self.stopped = trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, system: System) -> None:
        self.progress.close()

    def on_exception(self, trainer: Trainer, system: System, exception: BaseException) -> None:
        if hasattr(self, "progress"):
            self.progress.close()
            self.saver.finish(timeout=GRACE)

    def _log(self, trainer: Trainer, step: int) -> float:
        """Means over the micro-batches and ranks of this step; returns the loss."""
        names = sorted(self._metrics[0])
        rows = torch.stack([torch.stack([metrics[name].float() for name in names]) for metrics in self._metrics])
        values = dict(zip(names, guards.mean_over_ranks(rows.mean(0)).tolist(), strict=True))
        metrics = {f"train/{name}": value for name, value in values.items()}
        metrics |= {
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "samples_seen": step * self.config.data.batch_size,
            "guard/grad_norm": self.sentry.decision.agreed.norm,
            "guard/skipped": self.sentry.guard.skipped,
            "guard/spikes": self.sentry.guard.spikes,
            **self.record.values(step),
        }
        self._write(trainer, {name: value for name, value in metrics.items() if math.isfinite(value)}, step)
        return values["loss"]

    def _write(self, trainer: Trainer, metrics: dict[str, float], step: int) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step)

    def _validate(self, trainer: Trainer, system: System, step: int) -> dict[str, float]:
        config = self.config.callbacks.validation
        share = build.share()
        batches = self.batches.val(share, config.samples)
        drawn = config.pictures and (share.rank == 0 or strategies.is_sharded(trainer))
        with self.average.in_place() if self.average else nullcontext():
            metrics, pictures = validate(
                system, batches, trainer.precision_plugin.val_step_context, drawn, strategies.caller(trainer)
            )
        values = {f"val/{name}": value for name, value in metrics.items()}
        self._write(trainer, values, step)
        if share.rank == 0:
            log.info(
                "step %d  %s",
                step,
                "  ".join(f"{name} {value:.4f}" for name, value in values.items()),
            )
            save_pictures(self.run_dir / "pictures", pictures, f"step-{step:08d}-")
        best = self.config.callbacks.checkpoint.best
        if best and best.metric not in values:
            raise InputError(
                f"callbacks.checkpoint.best.metric={best.metric}: no such metric; expected one of {', '.join(values)}"
            )
        return values

    def _save(self, trainer: Trainer, step: int, scores: dict[str, float], wait: bool) -> None:
        state, values = checkpoint.collect(trainer, self.parts)
        facts = {"step": step, "samples_seen": step * self.config.data.batch_size, "metrics": scores, "values": values}
        self.saver.save(state, facts, wait)


def seed(key: int, device: torch.device) -> None:
    """As torch.manual_seed does, of the devices in use alone: for those that are not there it takes stack traces."""
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        torch.cuda.manual_seed(key)


def save_pictures(folder: Path, pictures: dict, prefix: str = "") -> list[Path]:
    """Pictures name -> (H, W, 3) uint8 as PNG files."""
    folder.mkdir(exist_ok=True, parents=True)
    written = []
    for name, picture in pictures.items():
        path = folder / f"{prefix}{name}.png"
        cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        written.append(path)
    return written
