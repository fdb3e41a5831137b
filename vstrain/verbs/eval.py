"""`vstrain eval ckpt=…`."""

from __future__ import annotations

import re

from vstrain.config.verbs import EvalConfig
from vstrain.verbs import job

USAGE = """vstrain eval ckpt=RUN_DIR key=value …

  ckpt=RUN_DIR             a run directory, or one of its checkpoints
  urls='[DIR/val-*.tar]'   shards to evaluate on (default: the run's validation shards)
  samples=N                only the first N
  output=FOLDER            where results go (default: the new run directory)
  system.KEY=VALUE         a key of the trained system that shall differ
  accelerator=auto|cpu|cuda threads=N

vstrain eval ckpt=RUN_DIR protocol=NAME root=DIR KEY=VALUE …

  protocol=NAME            a named evaluation of the system on a data set as it is published, e.g. kitti_eigen
  root=DIR                 the folder of the data set
  KEY=VALUE                keys of the protocol that shall differ from conf/protocol/NAME.yaml, e.g. cap=70 crop=none"""


def main(argv: list[str]) -> int:
    return job.main("eval", with_protocol(argv), USAGE)


def with_protocol(argv: list[str]) -> list[str]:
    """With `protocol=NAME`, keys that are not the verb's own are the protocol's: `cap=70` is `protocol.cap=70`."""
    if not any(word.startswith("protocol=") for word in argv):
        return argv
    return [
        f"protocol.{word}" if (key := re.match(r"(\w+)=", word)) and key[1] not in EvalConfig.model_fields else word
        for word in argv
    ]
