"""The whole parity matrix of an experiment: `python -m benchmarks.parity.run [--experiment NAME] [--ranks 1,2,4] [words …]`.

Runs `vstrain parity` once a number of ranks, keeps each parity.json under --out (what is there is not run again), and writes the
table into docs/reproducibility.md when all are there. Exit code 1 when a row is beyond the tolerance.
Depth is aligned by least squares here: the gradient of a median is that of one pixel, and rounding may choose another one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.report import Report

PAGE = Path(__file__).parents[2] / "docs" / "reproducibility.md"
ALL = (1, 2, 4)
SMOOTH = {"depth_teacher": ["system.loss.align=least_squares"]}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--experiment", default="depth_teacher")
    parser.add_argument("--ranks", default=",".join(map(str, ALL)))
    parser.add_argument("--out", type=Path, default=Path("runs/parity-benchmark"))
    parser.add_argument("words", nargs="*", help="further words for `vstrain parity`")
    options = parser.parse_args()
    words = [f"experiment={options.experiment}", "data.batch_size=16", "ema.decay=0.9"]
    words += [*SMOOTH.get(options.experiment, []), *options.words]
    for ranks in options.ranks.split(","):
        folder = options.out / f"{options.experiment}-{ranks}"
        if not (folder / "parity.json").is_file():
            line = [sys.executable, "-m", "vstrain.cli", "parity", *words, f"ranks=[{ranks}]", f"run.dir={folder}"]
            subprocess.run(line, check=False)
    found = [options.out / f"{options.experiment}-{ranks}" / "parity.json" for ranks in ALL]
    if missing := [path for path in found if not path.is_file()]:
        print(f"{missing[0]} is still missing; nothing written")
        return 1
    facts = {fact["row"]: fact for path in found for fact in json.loads(path.read_text())}
    report = Report()
    report.say(f"`python -m benchmarks.parity.run`: `vstrain parity {' '.join(words)}`, demo scale, CPU, gloo.")
    report.table(
        ["strategy", "ranks", "plain: loss", "weights", "accumulated: loss", "weights", "resumed"], lines(facts)
    )
    bad = [name for name, fact in facts.items() if fact["verdict"] in ("beyond", "failed")]
    report.check(
        "rows beyond the tolerance, failed, or not resumed bit for bit", "<= 0", float(len(bad)), ", ".join(bad)
    )
    report.write(PAGE, "parity")
    return int(bool(bad))


def lines(facts: dict[str, dict]) -> list[list[str]]:
    """One line a strategy and number of ranks."""
    places = dict.fromkeys((fact["strategy"], fact["ranks"]) for fact in facts.values())
    rows = []
    for strategy, ranks in places:
        cells = []
        for what in ("plain", "accumulated"):
            fact = facts[f"{strategy}-{ranks}-{what}"]
            cells += [f"{fact[name]:.1e}" if name in fact else fact["verdict"] for name in ("loss", "relative")]
        resumed = facts[f"{strategy}-{ranks}-resumed"]
        equal = {True: "bit-equal", False: "not bit-equal"}.get(resumed.get("resume_equal"), resumed["verdict"])
        rows.append([strategy, str(ranks), *cells, equal])
    return rows


if __name__ == "__main__":
    sys.exit(main())
