"""The layout that other libraries open, by the system's own `export`."""

from __future__ import annotations

import logging
from pathlib import Path

from vstrain.config.verbs import ExportConfig
from vstrain.engine import build
from vstrain.engine.restore import restore, threads

log = logging.getLogger("vstrain")
__all__ = ["run", "threads"]


def run(config: ExportConfig, run_dir: Path) -> str:
    system, trained, _ = restore(config)
    out = Path(config.output) if config.output else run_dir / "export"
    for path in build.part(trained.system, "export").export(system, out):
        log.info("wrote %s", path)
    return "finished"
