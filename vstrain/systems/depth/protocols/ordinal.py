"""Accuracy over pairs of points, of which one is nearer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from vstrain.config.problems import InputError
from vstrain.systems.depth.predict import disparity_of
from vstrain.systems.depth.protocols import summary
from vstrain.systems.depth.protocols.config import Protocol
from vstrain.systems.depth.protocols.gallery import Gallery, ordinal_tiles
from vstrain.systems.depth.protocols.listing import OrdinalSample, Point

ACCURACY = "accuracy"


def evaluate(
    system, options: Protocol, samples: list[OrdinalSample], progress: Callable[[int, int], None]
) -> tuple[list[summary.Row], list[str], np.ndarray]:
    """(a row an image, [], picture of the best and the worst)."""
    metric = system.config.output == "metric"
    rows, empty, gallery = [], [], Gallery(options.pictures)
    for done, sample in enumerate(samples, 1):
        photo = sample.read()
        prediction = disparity_of(system, photo)
        nearness = -prediction if metric else prediction
        try:
            right = correct(nearness, sample.pairs)
        except IndexError as error:
            raise InputError(f"{sample.key}: {error}") from error
        if right:
            share = sum(right) / len(right)
            rows.append(summary.Row(sample.key, sample.group, len(right), {ACCURACY: share}))
            line = f"{sum(right)} of {len(right)} right   {sample.key}"
            gallery.offer(1 - share, line, partial(ordinal_tiles, photo, nearness, sample.pairs, right))
        else:
            empty.append(sample.key)
        progress(done, len(samples))
    return rows, empty, gallery.sheet(f"{options.name}: {describe(metric)}")


def correct(nearness: np.ndarray, pairs: tuple[tuple[Point, Point], ...]) -> list[bool]:
    """For each (nearer, farther), whether `nearness` (H, W) is strictly larger at the nearer. Raises IndexError for a point
    outside."""
    height, width = nearness.shape
    for row, column in (point for pair in pairs for point in pair):
        if not (0 <= row < height and 0 <= column < width):
            raise IndexError(f"point [row {row}, column {column}] is outside of {height} rows and {width} columns")
    return [bool(nearness[nearer] > nearness[farther]) for nearer, farther in pairs]


def describe(metric: bool) -> str:
    compared = (
        "metres at the nearer point strictly smaller" if metric else "disparity at the nearer point strictly larger"
    )
    return f"{'metric' if metric else 'relative'} model, {compared} | all pairs pooled"
