"""`vstrain predict ckpt=…`."""

from __future__ import annotations

from vstrain.verbs import job

USAGE = """vstrain predict ckpt=RUN_DIR input=FILE_OR_FOLDER key=value …

  ckpt=RUN_DIR             a run directory, or one of its checkpoints (…/checkpoints/step-00000500)
  input=PATH               a photo, a video, or a folder of them, of any size
  output=FOLDER            where results go (default: results/ in the new run directory)
  system.KEY=VALUE         a key of the trained system that shall differ; for depth, e.g.
      system.predict.outputs=[depth,cloud,mesh,stereo,anaglyph,parallax,frames]   what to make of it (docs/depth_predict.md)
      system.predict.size=1036 system.predict.tile=auto                          more detail: a larger view, by tiles
  accelerator=auto|cpu|cuda threads=N"""


def main(argv: list[str]) -> int:
    return job.main("predict", argv, USAGE)
