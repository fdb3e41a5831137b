"""`vstrain replay RUN_DIR/quarantine/FOLDER`."""

from __future__ import annotations

import json
from pathlib import Path

from vstrain.config import checkpoints
from vstrain.config.problems import InputError
from vstrain.verbs import job

USAGE = """vstrain replay RUN_DIR/quarantine/FOLDER key=value …

  one batch from the quarantine of a run, forward and backward on one device: its loss beside the recorded one, the loss of
  each sample alone, the first module whose output is not finite, the gradient's norm
  ckpt=RUN_OR_CHECKPOINT   other weights (default: those that the batch met, if they were kept, or the checkpoint before it)
  accelerator=auto|cpu|cuda threads=N"""


def main(argv: list[str]) -> int:
    if argv and "=" not in argv[0] and not argv[0].startswith("-"):
        argv = [f"batch={argv[0]}", *argv[1:]]
    batch = next((word.partition("=")[2] for word in argv if word.startswith("batch=")), None)
    if batch is not None and not any(word.startswith("ckpt=") for word in argv):
        argv = [*argv, f"ckpt={weights_of(Path(batch))}"]
    return job.main("replay", argv, USAGE)


def weights_of(folder: Path) -> Path:
    """What the batch met, or the nearest that there is."""
    folder = folder.absolute()
    try:
        record = json.loads((folder / "record.json").read_text())
    except FileNotFoundError as error:
        raise InputError(
            f"{folder / 'record.json'} does not exist; give a folder such as RUN_DIR/quarantine/step-00000007-rank-0"
        ) from error
    if record["weights"]:
        return folder.parent / record["weights"]
    if (found := checkpoints.latest(folder.parents[1], before=record["step"])) is None:
        raise InputError(f"{folder}: the run has no checkpoint before step {record['step']}; give weights with ckpt=…")
    return found[0]
