"""What a worker does for each verb that needs torch: one module a verb, `run(config, run_dir) -> 'finished' | 'stopped'`."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch

from vstrain.config.strict import Strict

MODULES = {
    "train": "train",
    "predict": "predict",
    "eval": "evaluate",
    "export": "export",
    "replay": "replay",
    "label": "label",
    "plan": "plan",
    "adopt": "adopt",
    "parity": "parity",
}


def run(config: Strict, run_dir: Path) -> str:
    module = importlib.import_module(f"vstrain.engine.{MODULES[config.verb]}")
    torch.set_num_threads(module.threads(config))
    return module.run(config, run_dir)
