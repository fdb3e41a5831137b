"""The folder that the user works in: a system package of his own is found there by its name."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import launch  # noqa: F401  now, so that a launch.py of the user's is not taken for it, however we are installed


def search() -> None:
    """Look there last of all, here and in the processes to come, for which Python would look there first."""
    os.environ["PYTHONSAFEPATH"] = "1"
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
