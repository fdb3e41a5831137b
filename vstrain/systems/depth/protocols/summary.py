"""From scores of images to what is printed and kept: means, confidence intervals, a table, a CSV."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vstrain.data import keyed

LEVEL = (2.5, 97.5)  # percentiles of a 95 % interval
LABELS = {
    "abs_rel": "AbsRel",
    "sq_rel": "SqRel",
    "rmse": "RMSE",
    "rmse_log": "RMSElog",
    "log10": "log10",
    "silog": "SiLog",
    "delta1": "delta1",
    "delta2": "delta2",
    "delta3": "delta3",
    "accuracy": "accuracy",
}


@dataclass(frozen=True)
class Row:
    """count: pixels or pairs that the scores are over."""

    key: str
    group: str
    count: int
    scores: dict[str, float]


@dataclass(frozen=True)
class Means:
    """Of one group of images; `interval`: (low, high) of each score, 95 %."""

    label: str
    images: int
    count: int
    mean: dict[str, float]
    interval: dict[str, tuple[float, float]]


def summarise(rows: list[Row], pooled: bool, resamples: int) -> list[Means]:
    """One Means a group, and one of all images, the last. Every image weighs the same, or as much as its count (pooled)."""
    groups = sorted({row.group for row in rows if row.group})
    parts = [(group, [row for row in rows if row.group == group]) for group in groups if len(groups) > 1]
    return [_means(label, part, pooled, resamples) for label, part in (*parts, ("all", rows))]


def _means(label: str, rows: list[Row], pooled: bool, resamples: int) -> Means:
    names = list(rows[0].scores)
    values = np.array([[row.scores[name] for name in names] for row in rows], np.float64)
    counts = np.array([row.count for row in rows], np.float64)
    weights = counts if pooled else np.ones(len(rows))
    mean = weights @ values / weights.sum()
    low, high = bootstrap(values, weights, resamples)
    intervals = zip(low.tolist(), high.tolist(), strict=True)
    return Means(
        label,
        len(rows),
        int(counts.sum()),
        dict(zip(names, mean.tolist(), strict=True)),
        dict(zip(names, intervals, strict=True)),
    )


def bootstrap(values: np.ndarray, weights: np.ndarray, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """(low, high), (M,) each: percentile interval of the weighted mean of values (N, M), images drawn with replacement. The
    draws are the same in every run."""
    images = len(values)
    drawn = keyed.rng(0, "bootstrap over images").multinomial(images, np.full(images, 1 / images), size=resamples)
    means = drawn @ (weights[:, None] * values) / (drawn @ weights)[:, None]
    low, high = np.percentile(means, LEVEL, axis=0)
    return low, high


def table(means: list[Means], counted: str) -> str:
    """Rows of scores; under the last one, its interval. counted: pixels or pairs."""
    names = list(means[-1].mean)
    wide = max(14, *(len(part.label) for part in means)) + 2
    lines = [f"{'':<{wide}}{'images':>8}{counted:>14}" + "".join(f"{LABELS[name]:>10}" for name in names)]
    for part in means:
        lines.append(f"{part.label:<{wide}}{part.images:>8}{part.count:>14,}" + _cells(part.mean, names))
    for end, label in enumerate(("95 % from", "95 % to")):
        ends = {name: interval[end] for name, interval in means[-1].interval.items()}
        lines.append(f"{label:<{wide}}{'':>22}" + _cells(ends, names))
    return "\n".join(lines)


def _cells(values: dict[str, float], names: list[str]) -> str:
    return "".join(f"{values[name]:>10.4f}" for name in names)


def flat(means: list[Means]) -> dict[str, float]:
    """{"abs_rel": …, "abs_rel/low": …, "abs_rel/high": …, "<group>/abs_rel": …, …}"""
    found = {}
    for part in (means[-1], *means[:-1]):
        prefix = "" if part is means[-1] else f"{part.label}/"
        for name, value in part.mean.items():
            low, high = part.interval[name]
            found |= {f"{prefix}{name}": value, f"{prefix}{name}/low": low, f"{prefix}{name}/high": high}
    return found


def write_csv(path: Path, rows: list[Row], counted: str) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "group", counted, *rows[0].scores])
        writer.writerows([row.key, row.group, row.count, *row.scores.values()] for row in rows)
