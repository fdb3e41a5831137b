"""A run that suffered a fault beside one that did not: samples, curve, weights."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vstrain.config import checkpoints, rehearsal
from vstrain.data.index import Index
from vstrain.data.keyed import draw_key

EPOCHS = 64  # more than a rehearsal has
LOSS_TOLERANCE = 1e-3  # relative, of a step's loss, where the number of ranks changed: sums in another order
WEIGHT_TOLERANCE = 1e-3  # length of the difference over the length of the weights


@dataclass(frozen=True)
class Row:
    """One line of the table. None: not checked; note: why, or what was found."""

    fault: str
    survived: bool | None
    redone: int | None
    samples: bool | None
    curve: str
    weights: str
    note: str = ""

    @property
    def passed(self) -> bool:
        bad = {"differs"}
        return self.survived is None or (
            self.survived and self.samples is True and self.curve not in bad and self.weights not in bad
        )


def compare(name: str, reference: Path, run_dir: Path, finished: bool, exact: bool, note: str = "") -> Row:
    """`exact`: bit for bit; else within the tolerances."""
    found, redone = samples(run_dir)
    return Row(
        name,
        finished,
        redone,
        found == samples(reference)[0],
        same_curve(curve(reference), curve(run_dir), exact),
        same_weights(reference, run_dir, exact) if finished else "differs",
        note,
    )


def compare_with_damage(fault: str, reference: Path, run_dir: Path, finished: bool, damaged: set[int]) -> Row:
    """`damaged`: keys of the samples that the ledger names. All others are where they were, each step has as many, and up to
    the first step with a damaged one the curve is the same."""
    (expected, _), (found, redone) = samples(reference), samples(run_dir)
    first = next(
        (step for step in expected if damaged.intersection(expected[step]) and expected[step] != found.get(step)), None
    )
    kept = expected.keys() == found.keys() and all(
        len(found[step]) == len(keys) and not Counter(set(keys) - damaged) - Counter(found[step])
        for step, keys in expected.items()
    )
    if first is None:
        return Row(fault, False, redone, kept, "", "", "no damaged sample came up")
    curves = [{step: row for step, row in curve(path).items() if step < first} for path in (reference, run_dir)]
    same = same_curve(*curves, exact=True)
    lost = sum(len(damaged.intersection(keys) - set(found[step])) for step, keys in expected.items())
    note = f"{lost} lost samples were replaced and named; compared before step {first}"
    return Row(fault, finished, redone, kept, same, "", note)


def damaged_keys(run_dir: Path, shard: str, urls: list[str], seed: int) -> set[int]:
    """What a batch has under `key` for the samples of `shard` that the run's ledger names, in any of the first epochs."""
    index = Index.open(urls)
    ledger = [json.loads(line) for line in (run_dir / "quarantine.jsonl").read_text().splitlines()]
    named = {row["key"] for row in ledger if row["shard"] == shard}
    numbers = [n for n in range(len(index)) if index.key(n) in named]
    return {draw_key(seed, epoch, n) for n in numbers for epoch in range(EPOCHS)}


def samples(run_dir: Path) -> tuple[dict[int, list[int]], int]:
    """(step -> sorted keys of all ranks, in the launch that counts: the last that did the step; steps that were done again)."""
    steps: dict[int, dict[int, list[int]]] = {}
    for row in rehearsal.records(run_dir):
        steps.setdefault(row["step"], {}).setdefault(row["attempt"], []).extend(row["keys"])
    counted = {step: sorted(attempts[max(attempts)]) for step, attempts in sorted(steps.items())}
    return counted, sum(len(attempts) - 1 for attempts in steps.values())


def curve(run_dir: Path) -> dict[int, dict[str, float]]:
    """step -> its train/… numbers; a step that stands there twice has the list of both, which equals nothing."""
    found: dict[int, dict] = {}
    path = run_dir / "metrics.jsonl"
    for line in (path.read_text() if path.is_file() else "").splitlines():
        row = json.loads(line)
        values = {name: value for name, value in row.items() if name.startswith("train/")}
        if values:
            found[row["step"]] = {"twice": True} if row["step"] in found else values
    return found


def same_curve(expected: Mapping, found: Mapping, exact: bool) -> str:
    if expected == found:
        return "bit-equal"
    if exact or expected.keys() != found.keys():
        return "differs"
    worst = max(
        (
            abs(row["train/loss"] - found[step].get("train/loss", np.inf)) / max(abs(row["train/loss"]), 1e-12)
            for step, row in expected.items()
        ),
        default=0.0,
    )
    return f"within {worst:.0e}" if worst <= LOSS_TOLERANCE else "differs"


def same_weights(reference: Path, run_dir: Path, exact: bool) -> str:
    first, second = (checkpoints.latest(path) for path in (reference, run_dir))
    if not (first and second) or first[1]["step"] != second[1]["step"]:
        return "differs"
    sums = [
        {name: sum for name, sum in facts["files"].items() if name.startswith("model")} for _, facts in (first, second)
    ]
    if sums[0] == sums[1]:
        return "bit-equal"
    if exact:
        return "differs"
    distance = difference(first[0], second[0])
    return f"within {distance:.0e}" if distance <= WEIGHT_TOLERANCE else "differs"


def difference(first: Path, second: Path) -> float:
    """Length of the difference of two checkpoints' weights over the length of the first."""
    from safetensors.numpy import load_file

    a, b = (load_file(checkpoints.weights(path)) for path in (first, second))
    if a.keys() != b.keys():
        return float("inf")
    apart = sum(float(np.square(a[name].astype(np.float64) - b[name]).sum()) for name in a)
    return (apart / max(sum(float(np.square(value.astype(np.float64)).sum()) for value in a.values()), 1e-30)) ** 0.5
