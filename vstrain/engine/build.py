"""From a configuration to the parts of a run: the system found by its name, its `prepare`, its optimiser, its data."""

from __future__ import annotations

import importlib
import os
from functools import partial
from pathlib import Path
from types import ModuleType

import torch

from vstrain.config.problems import InputError
from vstrain.config.schema import Optim, Schedule, Strategy, SystemConfig, TrainConfig
from vstrain.data import kinds, loader
from vstrain.data.buckets import Bucket
from vstrain.data.cache import Cache
from vstrain.data.index import check_fields
from vstrain.data.loader import Means
from vstrain.data.storage import Storage
from vstrain.data.stream import Arrangement, Share
from vstrain.engine import blocks, precision
from vstrain.nn import attention
from vstrain.system import ParamGroup, System

ALONE = Share()


def part(config: SystemConfig, name: str) -> ModuleType:
    """Module `name` (prepare, module, predict, …) of the configured system."""
    full = f"{config.module}.{name}"
    try:
        return importlib.import_module(full)
    except ModuleNotFoundError as error:
        if error.name != full:
            raise
        raise InputError(f"system {config.module} has no {name!r}: {full} does not exist") from error


def build_system(config: TrainConfig) -> System:
    if config.verb == "train":
        attention.require(config.attention)
    system = part(config.system, "module").System(config.system)
    system.make_optimizer = partial(make_optimizer, config.optim, on_host=on_host(config.strategy))
    if config.verb in ("train", "plan"):
        system.after_build = partial(prepare_for_training, config)
    return system


def prepare_for_training(config: TrainConfig, system: System) -> None:
    """Before anything is sharded; a system that is only used (`trains` is False) stays as it was built."""
    if not system.trains:
        return
    if config.trainer.precision == "bf16-true":
        precision.cast(system)
    blocks.apply(system, config.trainer)


def on_host(strategy: Strategy) -> bool:
    """Whether DeepSpeed keeps the optimiser in host memory and steps it there."""
    return strategy.offload and strategy.name.startswith("zero")


def make_optimizer(optim: Optim, groups: list[ParamGroup], on_host: bool = False) -> torch.optim.Optimizer:
    """Every group keeps `lr_scale`, so that `set_learning_rate` can set its rate at any step."""
    parameters = [
        {
            "params": group.params,
            "name": group.name,
            "lr": optim.lr * group.lr_scale,
            "lr_scale": group.lr_scale,
            "weight_decay": optim.weight_decay if group.weight_decay is None else group.weight_decay,
        }
        for group in groups
        if group.params
    ]
    if on_host:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        decoupled = optim.name == "adamw"
        return DeepSpeedCPUAdam(parameters, lr=optim.lr, betas=optim.betas, eps=optim.eps, adamw_mode=decoupled)
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[optim.name]
    fused = all(p.is_cuda for group in groups for p in group.params) if optim.fused == "auto" else optim.fused
    return kind(parameters, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=fused or None)


def rate_factor(schedule: Schedule, step: int, steps: int) -> float:
    """Factor on the learning rate of step `step` (0-based) of `steps`: linear warm-up, then the decay to `final`."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    progress = (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)
    match schedule.name:
        case "constant":
            return 1.0
        case "linear" | "polynomial":
            shape = (1 - progress) ** schedule.power
        case "cosine":
            shape = (1 + float(torch.cos(torch.tensor(torch.pi * progress, dtype=torch.float64)))) / 2
    return schedule.final + (1 - schedule.final) * shape


def set_learning_rate(optimizer: torch.optim.Optimizer, optim: Optim, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = optim.lr * group["lr_scale"] * factor


def share() -> Share:
    """This process's place, from the environment that torchrun sets."""
    return Share(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


class Batches:
    """The data of a configuration: indices opened once, loaders made from them."""

    def __init__(self, config: TrainConfig, run_dir: Path | None):
        self.config, self.run_dir = config, run_dir
        data = config.data
        self.train_indices = [
            loader.open_index(source.urls, f"data.train{at}.urls")
            for at, source in zip(_addresses(data.train), data.train.all_sources(), strict=True)
        ]
        self.weights = [source.weight for source in data.train.all_sources()]
        self.roles = [source.role for source in data.train.all_sources()]
        self.val_index = loader.open_index(data.val.urls, "data.val.urls")
        for index, role in zip((*self.train_indices, self.val_index), (*self.roles, None), strict=True):
            members = config.system.members(role) or kinds.required(config.system.data_kind)
            check_fields(index, members, data.max_damaged, index.shards[0])
        self.prepare = part(config.system, "prepare").prepare

    @property
    def fingerprint(self) -> str:
        return "-".join(index.fingerprint for index in (*self.train_indices, self.val_index))

    @property
    def train_samples(self) -> int:
        return sum(map(len, self.train_indices))

    def train(self, start: int = 0, steps: int | None = None, share: Share = ALONE, workers: int | None = None):
        """Batches from the sample at position `start`, for `steps` optimiser steps (None: up to max_steps)."""
        data, trainer = self.config.data, self.config.trainer
        return loader.train_batches(
            self.train_indices,
            self.weights,
            Prepare(self.prepare, self.config.system, True),
            Arrangement(
                self.config.seed,
                data.block,
                data.lanes,
                data.chunk,
                tuple(Bucket(*(bucket.height, bucket.width, bucket.frames)) for bucket in data.buckets or ()),
                data.window,
            ),
            batch_size=data.batch_size,
            accumulate=trainer.accumulate,
            steps=trainer.max_steps - start // data.batch_size if steps is None else steps,
            start=start,
            share=share,
            means=self._means(data.workers if workers is None else workers),
            roles=self.roles,
        )

    def val(self, share: Share = ALONE, samples: int | None = None):
        data = self.config.data
        return loader.val_batches(
            self.val_index,
            Prepare(self.prepare, self.config.system, False),
            seed=self.config.seed,
            samples=samples,
            batch_size=data.val_batch_size,
            share=share,
            means=self._means(data.workers),
        )

    def _means(self, workers: int) -> Means:
        data = self.config.data
        return Means(
            workers=workers,
            ahead=data.ahead,
            timeout=data.timeout,
            max_damaged=data.max_damaged,
            ledger=self.run_dir / "quarantine.jsonl" if self.run_dir else None,
            storage=Storage(
                Cache(Path(data.cache.dir).expanduser(), int(data.cache.gigabytes * 1e9)) if data.cache else None
            ),
        )


def _addresses(train) -> list[str]:
    return [f".sources.{number}" for number in range(len(train.sources))] if train.sources else [""]


class Prepare:
    """A system's `prepare` with its config and mode filled in; picklable for data workers."""

    def __init__(self, function, config: SystemConfig, training: bool):
        self.function, self.config, self.training = function, config, training

    def __call__(self, sample: dict, rng) -> dict:
        return self.function(sample, self.config, rng, self.training)
