"""`vstrain label ckpt=…`."""

from __future__ import annotations

from vstrain.verbs import job

USAGE = """vstrain label ckpt=RUN_DIR urls='[PICTURES/*.tar]' output=FOLDER key=value …

  ckpt=RUN_DIR             the teacher: a run directory, or one of its checkpoints
  urls='[DIR/*.tar]'       shards with pictures, of any kind (see vstrain data pictures); local or remote
  output=FOLDER            shards with the same pictures and the teacher's labels; run the same command again to go on
  batch_size=8 size=PIXELS flip=true|false precision=32|bf16
  devices=N                processes on this node;  part=2/8: the second of eight jobs, auto: by SLURM array or torchrun
  limit=N                  only the first N pictures
  accelerator=auto|cpu|cuda threads=N"""


def main(argv: list[str]) -> int:
    return job.main("label", argv, USAGE)
