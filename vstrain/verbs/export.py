"""`vstrain export ckpt=…`."""

from __future__ import annotations

from vstrain.verbs import job

USAGE = """vstrain export ckpt=RUN_DIR key=value …

  ckpt=RUN_DIR             a run directory, or one of its checkpoints
  output=FOLDER            where the export goes (default: export/ in the new run directory)"""


def main(argv: list[str]) -> int:
    return job.main("export", argv, USAGE)
