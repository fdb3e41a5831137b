"""`vstrain eval ckpt=…`."""

from __future__ import annotations

from vstrain.verbs import job

USAGE = """vstrain eval ckpt=RUN_DIR key=value …

  ckpt=RUN_DIR             a run directory, or one of its checkpoints
  urls='[DIR/val-*.tar]'   shards to evaluate on (default: the run's validation shards)
  samples=N                only the first N
  accelerator=auto|cpu|cuda threads=N"""


def main(argv: list[str]) -> int:
    return job.main("eval", argv, USAGE)
