"""A run directory from foreign weights, read by the system's own `weights`: one checkpoint, at step 0, without an optimiser."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from vstrain.config import checkpoints, rundir
from vstrain.config.problems import InputError
from vstrain.config.schema import TrainConfig
from vstrain.config.validate import validate
from vstrain.config.verbs import AdoptConfig
from vstrain.engine import build, checkpoint

log = logging.getLogger("vstrain")


def threads(config: AdoptConfig) -> int:
    return config.trainer.threads or 1


def run(config: AdoptConfig, run_dir: Path) -> str:
    values = config.model_dump(mode="json", exclude={"weights", "stated"}) | {"verb": "train"}
    stated = {name: value for name, value in values["system"].items() if name in config.stated}
    try:
        changes, fill = build.part(config.system, "weights").adopt(config.weights, stated)
    except InputError:
        (run_dir / "resolved.yaml").unlink()  # no run yet: the same words with what was missing may use this directory
        raise
    values["system"] |= changes
    trained = validate(values, TrainConfig)
    system = build.build_system(trained)
    system.trains = False
    system.configure_model()
    fill(system)
    facts = {"system": trained.system.module, "adopted": config.weights, "step": 0, "samples_seen": 0}
    folder = run_dir / "checkpoints"
    checkpoint.write(folder / checkpoints.name(0), system.state_dict(), facts)
    checkpoint.point_last(folder / checkpoints.name(0))
    rundir.write_atomic(run_dir / "resolved.yaml", rundir.dump(trained))
    log.info("adopted %s: %s", config.weights, json.dumps(changes))
    return "finished"
