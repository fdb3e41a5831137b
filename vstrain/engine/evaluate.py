"""Numbers of a trained model on held-out shards: the validation metrics, and the system's own report if it has one."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from vstrain.config.schema import EvalConfig, Split
from vstrain.engine import build, train
from vstrain.engine.boundary import save_pictures
from vstrain.engine.restore import restore, threads
from vstrain.engine.validation import validate

log = logging.getLogger("vstrain")
__all__ = ["run", "threads"]


def run(config: EvalConfig, run_dir: Path) -> str:
    system, trained, path = restore(config)
    if config.urls is not None:
        data = trained.data.model_copy(update={"val": Split(urls=config.urls)})
        trained = trained.model_copy(update={"data": data})
    batches = build.Batches(trained, run_dir)
    metrics, pictures = validate(system, batches.val(samples=config.samples), pictures=True)
    save_pictures(run_dir / "pictures", pictures)
    facts = {"checkpoint": str(path), "shards": trained.data.val.urls, "metrics": metrics}
    (run_dir / "eval.json").write_text(json.dumps(facts, indent=2))
    for name, value in metrics.items():
        log.info("%-24s %.6g", name, value)
    train.report(system, batches, run_dir, config.samples)
    return "finished"
