"""Named, pinned evaluations of depth: `vstrain eval protocol=NAME root=DIR` (docs/depth_evaluation.md).

Torch-free until `evaluate` is called: the parent checks a protocol's input before a worker starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vstrain.config.problems import InputError
from vstrain.systems.depth.config import Config
from vstrain.systems.depth.protocols.config import PROTOCOLS, DepthProtocol, Protocol
from vstrain.systems.depth.protocols.listing import find

if TYPE_CHECKING:
    from vstrain.system import Report, System

__all__ = ["PROTOCOLS", "check", "evaluate"]


def check(options: Protocol, config: Config) -> None:
    """Raises InputError when the data set is not there, has another layout, or the options do not fit the model."""
    if isinstance(options, DepthProtocol) and options.align == "none" and config.output == "relative":
        raise InputError(
            "align=none needs a metric model, this one is relative; use align=scale_shift, or leave it out"
        )
    find(options)


def evaluate(
    system: System, options: Protocol, samples: int | None, out: Path, progress: Callable[[int, int], None]
) -> Report:
    """Scores of `system` by the protocol, on its first `samples` images (None: all); writes `out`/images.csv.
    `progress(done, total)` is called after each image. Raises InputError for a file that cannot be read."""
    from vstrain.systems.depth.protocols import run

    return run.evaluate(system, options, samples, out, progress)
