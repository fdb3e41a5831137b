"""The run directory: what the parent writes, the worker reads, and `status` looks at.

resolved.yaml   the whole configuration, as used
stamp.json      what ran: versions, git commit, data fingerprint, host, command
state.json      how it stands: status (created | running | finished | stopped | failed), step, error
metrics.jsonl   one object a line: step, train/…, val/…
checkpoints/ pictures/ logs/ tensorboard/
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import yaml
from pydantic import BaseModel

from vstrain.config.problems import ConfigError, Problem

CONF = Path(__file__).parents[2] / "conf"

PACKAGES = (
    "vstrain",
    "torch",
    "lightning",
    "hydra-core",
    "diffusers",
    "transformers",
    "numpy",
    "deepspeed",
    "xformers",
)


def create(config: BaseModel, root: Path, explicit: Path | None, extra: dict) -> Path:
    """A new run directory with resolved.yaml and stamp.json. `extra` goes into the stamp."""
    text = dump(config)
    if explicit is not None:
        path = Path(explicit).absolute()
        if (path / "resolved.yaml").exists():
            raise ConfigError(
                [
                    Problem(
                        "run.dir",
                        f"{path} already holds a run; continue it with `vstrain train resume={path}`, "
                        "or name another directory",
                    )
                ]
            )
        path.mkdir(parents=True, exist_ok=True)
    else:
        path = _fresh(root.absolute(), hashlib.sha256(text.encode()).hexdigest()[:4])
    for name in ("logs", "checkpoints", "pictures"):
        (path / name).mkdir(exist_ok=True)
    write_atomic(path / "resolved.yaml", text)
    write_atomic(path / "stamp.json", json.dumps(stamp() | extra, indent=2))
    set_state(path, "created")
    return path


def _fresh(root: Path, digest: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    base = f"{time.strftime('%Y%m%d-%H%M%S')}-{digest}"
    for number in range(1000):
        path = root / (base if not number else f"{base}-{number}")
        try:
            path.mkdir()
            return path
        except FileExistsError:
            continue
    raise ConfigError([Problem("run.root", f"cannot make a fresh directory under {root}")])


def dump(config: BaseModel) -> str:
    return yaml.safe_dump(config.model_dump(mode="json", by_alias=True), sort_keys=False)


def load(path: Path) -> dict:
    """resolved.yaml of a run directory."""
    file = Path(path) / "resolved.yaml"
    if not file.is_file():
        raise ConfigError(
            [
                Problem(
                    str(path),
                    "not a run directory: resolved.yaml is missing; give a folder such as runs/<experiment>/<id>",
                )
            ]
        )
    return with_new_keys(yaml.safe_load(file.read_text()))


def with_new_keys(values: dict) -> dict:
    """Keys that did not exist when a run was made take their shipped values, so that old runs load."""
    if values.get("verb") != "train":
        return values
    system, filled = values.get("system") or {}, dict(values)
    for path in (CONF / "system").glob("*.yaml"):
        shipped = yaml.safe_load(path.read_text())
        if shipped["module"] == system.get("module"):
            filled["system"] = _filled(system, shipped)
    for group in ("trainer", "optim", "schedule", "ema", "callbacks", "guards", "logger", "launcher", "strategy"):
        node = values.get(group) or {}
        path = CONF / group / f"{node.get('name', 'default')}.yaml"
        if path.is_file():
            filled[group] = _filled(node, yaml.safe_load(path.read_text()) or {})
    return filled


def _filled(values: dict, shipped: dict) -> dict:
    unknown = ("???", "${attention}")  # what has no value of its own
    missing = {name: value for name, value in shipped.items() if name not in values and value not in unknown}
    inner = {
        name: _filled(values[name], value)
        for name, value in shipped.items()
        if isinstance(value, dict) and isinstance(values.get(name), dict)
    }
    return values | missing | inner


def set_state(path: Path, status: str, **fields) -> None:
    write_atomic(path / "state.json", json.dumps({"status": status, "time": time.time(), **fields}))


def set_failed(path: Path, began: float, error: str, code: int) -> None:
    """The first failure since `began` stays: what other ranks report after it follows from it."""
    found = state(path)
    if found["status"] != "failed" or found["time"] < began:
        set_state(path, "failed", error=error, code=code)


def state(path: Path) -> dict:
    file = Path(path) / "state.json"
    return json.loads(file.read_text()) if file.is_file() else {"status": "unknown"}


def write_atomic(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def stamp() -> dict:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "cwd": str(Path.cwd()),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "git": git_state(Path(__file__).parents[2]),
    }


def git_state(folder: Path) -> dict | None:
    """Commit of the code that runs and whether it differs from that commit; None outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    if not (folder / ".git").exists():
        return None
    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
