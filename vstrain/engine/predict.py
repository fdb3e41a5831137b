"""Results for a user's own files, by the system's own `predict`."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch

from vstrain.config.problems import InputError
from vstrain.config.verbs import PredictConfig
from vstrain.engine import build
from vstrain.engine.console import FileProgress
from vstrain.engine.restore import restore, threads

log = logging.getLogger("vstrain")
__all__ = ["run", "threads"]


def run(config: PredictConfig, run_dir: Path) -> str:
    inputs = files(Path(config.input))
    system, trained, _ = restore(config)
    predict = build.part(trained.system, "predict").predict
    out = Path(config.output) if config.output else run_dir / "results"
    out.mkdir(parents=True, exist_ok=True)
    with FileProgress() as progress, torch.inference_mode():
        done = predict(system, inputs, out, progress)
    for _, reason in done.refused:
        log.warning("refused: %s", reason)
    (run_dir / "refused.jsonl").write_text(
        "".join(json.dumps({"file": str(p), "reason": r}) + "\n" for p, r in done.refused)
    )
    log.info(
        "%d of %d inputs done, %d files in %s",
        len(inputs) - len(done.refused),
        len(inputs),
        len(done.written),
        out,
    )
    if not done.written:
        raise InputError(
            f"{config.input}: none of its {len(inputs)} files could be used; the reasons stand above and in "
            f"{run_dir / 'refused.jsonl'}"
        )
    return "finished"


def files(path: Path) -> list[Path]:
    """The input itself, or every file below it that is not hidden, sorted."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"input={path}: does not exist; give a file or a folder of files")
    found = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not found:
        raise InputError(f"input={path}: the folder holds no file; give a photo, a video or a folder of them")
    return found
