"""What was queued is what runs: a copy of the code in the run directory."""

from __future__ import annotations

import shutil
import sysconfig
from importlib import util
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = ("vstrain", "data_pipelines", "launch", "conf")


def freeze(run_dir: Path, module: str) -> Path:
    """RUN_DIR/code with our packages and the one that the system `module` is in, if it is the user's own. A run that is queued
    again gets the code of that moment."""
    folders = [ROOT / name for name in OURS if (ROOT / name).is_dir()]
    top = module.partition(".")[0]
    spec = util.find_spec(top) if top not in OURS else None
    if spec is not None and spec.origin is not None and not _installed(Path(spec.origin)):
        own = Path(spec.origin)
        folders.append(own.parent if own.name == "__init__.py" else own)
    code, fresh = run_dir / "code", run_dir / ".code.tmp"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for folder in folders:
        if folder.is_dir():
            shutil.copytree(folder, fresh / folder.name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copy(folder, fresh / folder.name)
    shutil.rmtree(code, ignore_errors=True)
    fresh.rename(code)
    return code


def _installed(file: Path) -> bool:
    paths = sysconfig.get_paths()
    return any(file.is_relative_to(paths[name]) for name in ("purelib", "platlib", "stdlib"))
