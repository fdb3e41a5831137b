"""Numbers of a trained model: the validation metrics on held-out shards and the system's own report if it has one, or one of
its protocols."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from vstrain.config import checkpoints, rundir
from vstrain.config.problems import InputError
from vstrain.config.schema import Split, TrainConfig, TrainSplit
from vstrain.config.verbs import EvalConfig
from vstrain.engine import build, train
from vstrain.engine.boundary import save_pictures
from vstrain.engine.console import FileProgress
from vstrain.engine.restore import restore, threads
from vstrain.engine.validation import validate
from vstrain.system import System

log = logging.getLogger("vstrain")
__all__ = ["run", "threads"]


def run(config: EvalConfig, run_dir: Path) -> str:
    system, trained, path = restore(config)
    out = Path(config.output) if config.output else run_dir
    out.mkdir(parents=True, exist_ok=True)
    if config.protocol is not None:
        by_protocol(config, system, path, out)
    else:
        on_shards(config, system, trained, path, out)
    return "finished"


def on_shards(config: EvalConfig, system: System, trained: TrainConfig, path: Path, out: Path) -> None:
    if config.urls is not None:
        data = trained.data.model_copy(update={"val": Split(urls=config.urls)})
        if not data.train.all_sources()[0].urls:  # an adopted run: what baselines are learned from
            data = data.model_copy(update={"train": TrainSplit(urls=config.urls)})
        trained = trained.model_copy(update={"data": data})
    if not trained.data.val.urls:
        raise InputError(f"ckpt={config.ckpt}: this run was adopted and has no shards; give urls='[DIR/val-*.tar]'")
    batches = build.Batches(trained, out)
    metrics, pictures = validate(system, batches.val(samples=config.samples), pictures=True)
    save_pictures(out / "pictures", pictures)
    facts = {"checkpoint": str(path), "shards": trained.data.val.urls, "metrics": metrics}
    (out / "eval.json").write_text(json.dumps(facts, indent=2))
    for name, value in metrics.items():
        log.info("%-24s %.6g", name, value)
    train.report(system, batches, out, config.samples)


def by_protocol(config: EvalConfig, system: System, path: Path, out: Path) -> None:
    """The text, results.json (the numbers and all that decides them), pictures/, and what the protocol itself writes."""
    protocols = build.part(system.config, "protocols")
    options = protocols.PROTOCOLS[config.protocol["name"]].model_validate(config.protocol)
    with FileProgress() as progress:
        result = protocols.evaluate(system, options, config.samples, out, progress)
    facts = {
        "protocol": options.model_dump(mode="json"),
        "samples": config.samples,
        "checkpoint": str(path),
        "weights": {file.name: checkpoints.checksum(file) for file in checkpoints.weight_files(path, config.averaged)},
        "system": system.config.model_dump(mode="json"),
        **result.facts,
        "metrics": result.metrics,
    }
    rundir.write_atomic(out / "results.json", json.dumps(facts, indent=2))
    save_pictures(out / "pictures", result.pictures)
    log.info("\n%s\n\nresults.json, images.csv and pictures/ are in %s", result.text, out)
