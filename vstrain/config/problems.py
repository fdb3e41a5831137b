"""Mistakes in a configuration: all of them at once, each one sentence that says where it stands and what would be right."""

from __future__ import annotations

import difflib
from dataclasses import dataclass


class InputError(ValueError):
    """Bad input of any kind: one sentence that names the file or key, what was expected, and what to do."""


@dataclass(frozen=True)
class Problem:
    path: str  # key path, e.g. optim.lr
    sentence: str
    origin: str = ""  # the override or the file that holds it
    missing: bool = False  # nothing sets the key

    def __str__(self) -> str:
        return f"{self.path}: {self.sentence}" + (f"  [{self.origin}]" if self.origin else "")


class ConfigError(InputError):
    def __init__(self, problems: list[Problem]):
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def nearest(word: str, candidates) -> str:
    """' did you mean …?' for the closest candidate, or the list of them when none is close."""
    candidates = sorted(candidates)
    if close := difflib.get_close_matches(word, candidates, n=1, cutoff=0.6):
        return f"did you mean {close[0]}?"
    return f"expected one of {', '.join(candidates)}" if candidates else ""
