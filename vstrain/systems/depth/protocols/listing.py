"""What every layout becomes: a list of samples, and the mistakes of a user's folder in one sentence."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vstrain.config.problems import InputError
from vstrain.systems.depth.protocols.config import Protocol

Point = tuple[int, int]  # row, column


@dataclass(frozen=True)
class Sample:
    """key: its name, the same wherever the data set lies. read: photo uint8 (H, W, 3) and depth float (h, w) in metres, of
    which numbers that are <= 0 or not finite are invalid. group: scored by itself as well; "" is none."""

    key: str
    read: Callable[[], tuple[np.ndarray, np.ndarray]]
    group: str = ""


@dataclass(frozen=True)
class OrdinalSample:
    """pairs: (nearer point, farther point) each. group: the kind of scene."""

    key: str
    read: Callable[[], np.ndarray]
    pairs: tuple[tuple[Point, Point], ...]
    group: str


@dataclass(frozen=True)
class Listing:
    """samples in the order of the evaluation. split: where the list is from, in words."""

    samples: list[Sample] | list[OrdinalSample]
    split: str


def find(options: Protocol) -> Listing:
    """The images of the protocol below its root. Raises InputError when the root or the expected layout is not there."""
    root = Path(options.root).expanduser()
    if not root.is_dir():
        raise InputError(f"root={root}: no such folder; give the folder of the data set")
    return importlib.import_module(f"vstrain.systems.depth.protocols.layouts.{options.name}").find(root, options)


def digest(keys: list[str]) -> str:
    """A number of the list of images: two scores with the same one are over the same images in the same order."""
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]


def wrong_layout(root: Path, expected: str) -> InputError:
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in root.iterdir())
    found = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return InputError(f"root={root}: expected {expected}; found {found or 'nothing'}; give the folder that holds them")
