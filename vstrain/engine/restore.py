"""A trained system from a checkpoint, ready for inference: what predict, eval and export begin with."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from safetensors.torch import load_file

from vstrain.config import checkpoints
from vstrain.config.problems import InputError
from vstrain.config.schema import TrainConfig
from vstrain.config.validate import trained
from vstrain.config.verbs import Job
from vstrain.engine import build
from vstrain.system import System

log = logging.getLogger("vstrain")


def restore(job: Job, trains: bool = False) -> tuple[System, TrainConfig, Path]:
    """(system in evaluation mode on its device, the configuration it was trained with, the checkpoint's folder). `trains`:
    with all that training needs, in training mode."""
    run_dir, path = checkpoints.find(Path(job.ckpt), "ckpt")
    config = trained(run_dir, job.system)
    system = load(config, path, trains, job.averaged and not trains)
    device = device_of(job.accelerator)
    log.info("checkpoint %s on %s", path, device)
    return system.to(device).train(trains), config, path


def load(config: TrainConfig, path: Path, trains: bool = False, averaged: bool = True) -> System:
    """The system of `config` with the weights of the checkpoint `path`, on the CPU."""
    system = build.build_system(config)
    system.trains = trains
    system.configure_model()
    try:
        state: dict[str, torch.Tensor] = {}
        for file in checkpoints.weight_files(path, averaged):
            state |= load_file(file)
        system.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"ckpt={path}: its weights do not fit system {config.system.module} ({str(error).splitlines()[-1].strip()}); "
            "leave out the system.* keys that change sizes"
        ) from error
    return system


def device_of(accelerator: str) -> torch.device:
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise InputError("accelerator=cuda, but torch sees no CUDA device here; use accelerator=cpu or auto")
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def threads(job: Job) -> int:
    return job.threads or len(os.sched_getaffinity(0))
