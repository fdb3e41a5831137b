"""What accelerators can do at most: the dense data-sheet rates of conf/hardware."""

from __future__ import annotations

import re
from functools import cache

import yaml

from vstrain.config.rundir import CONF


@cache
def peak(name: str, half: bool) -> float | None:
    """FLOP/s, bfloat16 or float32, of a device that torch calls `name`; None when conf/hardware does not have it."""
    known = [yaml.safe_load(path.read_text()) for path in (CONF / "hardware").glob("*.yaml")]
    words = [facts for facts in known if "device" in facts and re.search(rf"\b{facts['device']}\b", name)]
    found = max(words, key=lambda facts: len(facts["device"]), default=None)
    return found and found["bf16" if half else "fp32"] * 1e12
