"""Tables and demanded figures, printed while the benchmark runs and written between the markers of a page under docs/."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path


def markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


@dataclass
class Check:
    """`figure` is None when it could not be measured; `why` then says so."""

    what: str
    bound: str  # "<= 0.75" or ">= 2.5"
    figure: float | None
    why: str = ""

    @property
    def verdict(self) -> str:
        if self.figure is None:
            return "not measured"
        sense, limit = self.bound.split()
        return "PASS" if (self.figure <= float(limit) if sense == "<=" else self.figure >= float(limit)) else "FAIL"


class Report:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.checks: list[Check] = []

    def say(self, *lines: str) -> None:
        self.lines += lines
        print(*lines, sep="\n", flush=True)

    def table(self, heads: list[str], rows: list[list]) -> None:
        self.say("", *_table(heads, rows), "")

    def check(self, what: str, bound: str, figure: float | None, why: str = "") -> None:
        check = Check(what, bound, figure, why)
        self.checks.append(check)
        print(f"{check.verdict:12} {what}: {show(figure)} (demanded {bound}) {why}", flush=True)

    def finish(self) -> None:
        rows = [[check.what, check.bound, show(check.figure), check.verdict, check.why] for check in self.checks]
        self.say("", "**Demanded and measured**")
        self.table(["what", "demanded", "measured", "", "note"], rows)

    def write(self, page: Path, name: str = "benchmark") -> None:
        """Replace what stands between the markers `name` of `page`."""
        before, after = around(page, name)
        begin, end = markers(name)
        body = "\n".join(self.lines).strip("\n")
        page.write_text(f"{before}{begin}\n{body}\n{end}{after}")


def around(page: Path, name: str = "benchmark") -> tuple[str, str]:
    """What stands before and after the markers `name` of `page`."""
    text, (begin, end) = page.read_text(), markers(name)
    if begin not in text or end not in text:
        raise SystemExit(f"{page}: the lines {begin} and {end} are missing; put them where the tables belong")
    return text.split(begin)[0], text.split(end)[1]


def _table(heads: list[str], rows: list[list]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(show(cell) for cell in line) + " |" for line in lines]


def show(value) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)


def median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def ratio(ours: list[float], theirs: list[float]) -> float | None:
    """Median of the rounds' ratios: both sides of a ratio ran one after the other."""
    return median([a / b for a, b in zip(ours, theirs, strict=False)])
