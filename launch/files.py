"""The small JSON files by which a run's processes speak to each other."""

from __future__ import annotations

import json
import os
from pathlib import Path


class LaunchError(RuntimeError):
    """A run cannot be started: one sentence that says why and what to do."""


def read(path: Path) -> dict:
    """The object in a JSON file; empty when there is none, or half of one."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def write(path: Path, values: dict) -> None:
    """At once or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(values))
    temporary.replace(path)


def read_lines(path: Path) -> list[dict]:
    """The objects of a JSON-lines file, without a line that is still being written."""
    found = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
