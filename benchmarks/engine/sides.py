"""The same training steps four ways: a bare PyTorch loop, Lightning alone, vstrain, and vstrain without guards and meter."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import Trainer

from vstrain.config.schema import SystemConfig, TrainConfig
from vstrain.engine import build, train
from vstrain.engine.boundary import StepBoundary
from vstrain.engine.guards import StopFlag
from vstrain.engine.health.lockstep import Agreed
from vstrain.engine.health.policy import Decision
from vstrain.engine.health.supply import Supply
from vstrain.engine.health.watchdog import Watchdog
from vstrain.system import Objective, System

SIDES = ("bare", "lightning", "unguarded", "vstrain")


class Mixer(System):
    """`depth` residual layers of two matrices over `tokens` vectors of `width`: time goes into products, as in training."""

    def __init__(self, width: int, depth: int):
        super().__init__(SystemConfig(module="benchmarks.engine", data_kind="none"))
        self.width, self.depth = width, depth

    def build(self) -> None:
        w = self.width
        self.layers = torch.nn.ModuleList(
            torch.nn.Sequential(
                torch.nn.LayerNorm(w), torch.nn.Linear(w, 4 * w), torch.nn.GELU(), torch.nn.Linear(4 * w, w)
            )
            for _ in range(self.depth)
        )

    def forward(self, batch: dict) -> torch.Tensor:
        x = batch["x"]
        for layer in self.layers:
            x = x + layer(x)
        return (x - batch["y"]).square().mean()

    def objective(self, batch: dict) -> Objective:
        return Objective(self(batch), {})


class Memory:
    """The same batch, `steps` times; what Supply asks of a loader."""

    def __init__(self, steps: int, size: tuple[int, int, int]):
        self.plan = range(steps)
        x = torch.randn(size, generator=torch.Generator().manual_seed(0))
        self.batch = {"x": x, "y": x.flip(0), "key": torch.arange(len(x)), "weight": torch.ones(len(x))}

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self):
        for _ in self.plan:
            yield dict(self.batch)


CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}


class Clock:
    """Seconds between the ends of optimiser steps, by the clock on the wall or of this thread alone."""

    now = CLOCKS["wall"]

    def __init__(self):
        self.ends: list[float] = []

    def tick(self) -> None:
        self.ends.append(Clock.now())

    def typical(self, skip: int = 3) -> float:
        """The lower quartile: what a step takes while nothing else wants the cores."""
        return float(np.quantile(np.diff(self.ends)[skip:], 0.25))


def bare(config: TrainConfig, system: Mixer, data: Memory) -> float:
    system.configure_model()
    optimizer, clock = system.configure_optimizers(), Clock()
    model = torch.nn.parallel.DistributedDataParallel(system, gradient_as_bucket_view=True) if together() else system
    for batch in data:
        loss = model(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        clock.tick()
    return clock.typical()


def lightning(config: TrainConfig, system: Mixer, data: Memory) -> float:
    """Its Trainer with nothing attached."""
    clock = Clock()
    system.on_train_batch_end = lambda *rest: clock.tick()
    trainer = Trainer(
        accelerator="cpu",
        devices=config.trainer.devices,
        strategy="ddp" if together() else "auto",
        max_steps=config.trainer.max_steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(system, data)
    return clock.typical()


def vstrain(config: TrainConfig, system: Mixer, data: Memory, run_dir: Path, guarded: bool) -> float:
    """The run as it is, without validation and saving, or also without judging, quarantine and clock."""
    clock = Clock()

    class Timed(StepBoundary):
        def on_train_batch_end(self, trainer, *rest) -> None:
            super().on_train_batch_end(trainer, *rest)
            clock.tick()

        def _validate(self, *rest) -> dict:
            return {}

        def _save(self, *rest, **words) -> None:
            pass

    facts = {"config": "0" * 64, "data": "0", "system": "benchmarks.engine"}
    boundary = Timed(config, run_dir, None, StopFlag(), 0, facts)
    if not guarded:
        without_health(boundary)
    trainer = train.build_trainer(config, run_dir, boundary, 0)
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # as in train.run
    supply = boundary.sentry.supply = Supply(data, boundary.meter)
    with Watchdog(run_dir, boundary.meter, dist.get_rank() if together() else 0, config.trainer.devices, 1200):
        trainer.fit(system, supply if guarded else data)
    return clock.typical()


def without_health(boundary: StepBoundary) -> None:
    fine = Decision(Agreed(False, 0.0, 0.0))
    boundary.sentry.decision = fine
    boundary.sentry.begin = boundary.sentry.loss = boundary.sentry.judge = lambda *rest: None
    boundary.sentry.close = lambda *rest: fine
    boundary.meter.enter = lambda section: None
    boundary.meter.window = lambda step: {"time/step": 1.0, "time/validation": 0.0, "time/save": 0.0}


def together() -> bool:
    return dist.is_available() and dist.is_initialized()


def measure(
    config: TrainConfig, width: int, depth: int, size: tuple[int, int, int], folder: Path, rounds: int
) -> list[dict]:
    """[side -> seconds a step] of each round. Each round starts with another side: the machine's speed drifts."""
    for name in ("lightning.pytorch", "vstrain"):
        logging.getLogger(name).setLevel(logging.ERROR)
    data, found = Memory(config.trainer.max_steps, size), []
    for number in range(rounds):
        times = {}
        for at in range(len(SIDES)):
            side = SIDES[(number + at) % len(SIDES)]
            torch.manual_seed(0)
            system = Mixer(width, depth)
            system.make_optimizer = partial(build.make_optimizer, config.optim)
            if side in ("bare", "lightning"):
                times[side] = {"bare": bare, "lightning": lightning}[side](config, system, data)
                continue
            run_dir = folder / f"{side}-{number}-{config.trainer.max_steps}-{width}"
            run_dir.mkdir(exist_ok=True, parents=True)
            (run_dir / "logs").mkdir(exist_ok=True)
            times[side] = vstrain(config, system, data, run_dir, side == "vstrain")
        found.append(times)
    return found


def config_of(devices: int, steps: int, batch: int, run_dir: Path) -> TrainConfig:
    from vstrain.config.command import Command

    words = [
        "experiment=depth_teacher",
        f"trainer.devices={devices}",
        f"trainer.max_steps={steps}",
        "trainer.accelerator=cpu",
        f"data.batch_size={batch * devices}",
        "logger.tensorboard=false",
        "callbacks.checkpoint.every=1000000",
        "callbacks.validation.every=1000000",
        f"run.dir={run_dir}",
    ]
    return Command("train", TrainConfig, words).config()
