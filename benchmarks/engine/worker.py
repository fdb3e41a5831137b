"""One process of benchmarks.engine.run: `python -m benchmarks.engine.worker DEVICES NETWORK ROUNDS FOLDER OUT CLOCK`."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.engine.run import NETWORKS
from benchmarks.engine.sides import CLOCKS, Clock, config_of, measure


def main(devices: str, network: str, rounds: str, folder: str, out: str, clock: str) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    Clock.now = CLOCKS[clock]
    if int(devices) > 1:
        dist.init_process_group("gloo")
    width, depth, (batch, tokens), steps = NETWORKS[network]
    config = config_of(int(devices), steps, batch, Path(folder) / "run")
    found = measure(config, width, depth, (batch, tokens, width), Path(folder), int(rounds))
    if int(os.environ.get("RANK", 0)) == 0:
        Path(out).write_text(json.dumps(found))
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
