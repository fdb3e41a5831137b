"""What a launch of several processes runs: one run after the other in the same processes, which start only once.

python -m torch.distributed.run … ranks.py '[["RUN_DIR", {"key": value}], …]'
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch.distributed as dist
from omegaconf import OmegaConf

from vstrain.config import rundir
from vstrain.config.schema import TrainConfig
from vstrain.config.validate import validate
from vstrain.engine import console, jobs


def main(plan: str) -> None:
    for run_dir, changes in json.loads(plan):
        run_dir = Path(run_dir)
        console.set_up_logging(run_dir, int(os.environ.get("RANK", 0)))
        values = OmegaConf.create(rundir.load(run_dir))
        for key, value in changes.items():
            OmegaConf.update(values, key, value)
        jobs.run(validate(values, TrainConfig), run_dir)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
