"""The rows of `vstrain parity` for one number of ranks, one after the other in one process group."""

from __future__ import annotations

import gc
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vstrain.config import rundir
from vstrain.config.schema import TrainConfig
from vstrain.config.validate import validate
from vstrain.config.verbs import ParityConfig
from vstrain.engine import build, train

log = logging.getLogger("vstrain")


def threads(config: ParityConfig) -> int:
    return train.threads(config)


def run(config: ParityConfig, run_dir: Path) -> str:
    """Rows that are not `finished` afterwards did not come to their end."""
    for name, what in json.loads((run_dir / "rows.json").read_text()):
        log.info("parity: %s", name)
        folder = run_dir / "rows" / name
        row = validate(rundir.load(folder), TrainConfig)
        with quiet(), kept_environment():
            if what == "resumed":
                train.run(row, folder, until=(row.trainer.max_steps + 1) // 2)
        with quiet(), kept_environment():
            train.run(row, folder, closing=False)
        if build.share().rank == 0:
            rundir.set_state(folder, "finished")
        gc.collect()
    return "finished"


@contextmanager
def quiet() -> Iterator[None]:
    """What a row says goes to the log file alone."""
    screens = [handler for handler in log.handlers if not isinstance(handler, logging.FileHandler)]
    for screen in screens:
        log.removeHandler(screen)
    try:
        yield
    finally:
        for screen in screens:
            log.addHandler(screen)


@contextmanager
def kept_environment() -> Iterator[None]:
    """Lightning and DeepSpeed write the ranks into the environment, and remove some of them when a run ends."""
    kept = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)
