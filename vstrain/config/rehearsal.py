"""What `vstrain rehearse` orders of a run: a record of the samples of each step, and one fault. Only that verb gives orders."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

VARIABLE = "VSTRAIN_REHEARSAL"  # an order as JSON, in the environment of the ranks
RECORD = "rehearsal"  # folder of the run directory: rank-N.jsonl, a line for each micro-batch


class Order(NamedTuple):
    """kind: none, term (SIGTERM in a step), kill (SIGKILL in a step), kill_in_save, nan (the loss of a step), file_limit
    (files may have `count` bytes). rank: who suffers it. step: during which step, from 1 on; kill_in_save: in the first save
    of that step or a later one, after `count` of its file operations. attempt: the how many-th launch of the run this is."""

    kind: str = "none"
    rank: int = 0
    step: int = 0
    count: int = 0
    attempt: int = 1

    def environment(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(self._asdict())}


def order() -> Order | None:
    """The order to this process, None in a run that is no rehearsal."""
    text = os.environ.get(VARIABLE)
    return Order(**json.loads(text)) if text else None


def records(run_dir: Path) -> list[dict]:
    """Lines of all ranks: attempt, step, rank, keys (one a sample: which sample of which epoch it is)."""
    files = sorted((run_dir / RECORD).glob("rank-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]
