"""Batches that did harm, kept to be looked at: RUN_DIR/quarantine/step-00000007-rank-0/.

batch-K.safetensors  tensors of micro-batch K as the network got them
record.json          what was wrong; of each micro-batch the loss, the samples and the key of torch's random state; seed, rank,
                     precision; written last, so a folder that has it is whole

With guards.weights, RUN_DIR/quarantine/step-00000007-weights/ is a checkpoint of the weights that the batch met, without an
optimiser: any verb takes it as ckpt=….
"""

from __future__ import annotations

import json
import socket
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from vstrain.config import checkpoints, rundir
from vstrain.config.schema import TrainConfig
from vstrain.engine.checkpoint import write, write_tensors
from vstrain.system import System

RECORD = "record.json"


class Quarantine:
    """Keeps the micro-batches of the step that is going on, and on request writes them. At most guards.quarantine folders."""

    def __init__(self, config: TrainConfig, run_dir: Path, facts: dict[str, str], rank: int, world: int):
        self.config, self.run_dir, self.facts, self.rank, self.world = config, run_dir, facts, rank, world
        self.room = config.guards.quarantine - len(list((run_dir / "quarantine").glob(f"step-*-rank-{rank}")))
        self.batches: list[dict] = []

    def hold(self, batch: dict) -> None:
        """Lend the tensors until the step ends. Earlier micro-batches are copied where they lie in the data workers' memory."""
        if self.room <= 0:
            return
        if self.batches and next(_tensors(self.batches[-1])).device.type == "cpu":
            self.batches[-1] = {k: v.clone() if torch.is_tensor(v) else v for k, v in self.batches[-1].items()}
        self.batches.append(batch)

    def release(self) -> None:
        self.batches = []

    def write(self, step: int, reason: str, micro: list[dict], more: dict) -> Path | None:
        """The step's batches; `micro` has facts of each micro-batch, `more` those of the step. None: there is no room left."""
        if self.room <= 0:
            return None
        self.room -= 1
        folder = self.run_dir / "quarantine" / f"{checkpoints.name(step)}-rank-{self.rank}"
        folder.mkdir(parents=True, exist_ok=True)
        for number, batch in enumerate(self.batches):
            tensors = {name: value.detach().cpu() for name, value in batch.items() if torch.is_tensor(value)}
            write_tensors(folder / f"batch-{number}.safetensors", tensors)
            micro[number]["words"] = {name: value for name, value in batch.items() if not torch.is_tensor(value)}
        record = {
            "reason": reason,
            "step": step,
            "rank": self.rank,
            "world": self.world,
            "host": socket.gethostname(),
            "accumulate": self.config.trainer.accumulate,
            "precision": self.config.trainer.precision,
            "seed": self.config.seed,
            **self.facts,
            **more,
            "micro": micro,
        }
        rundir.write_atomic(folder / RECORD, json.dumps(record, indent=2))
        return folder

    def write_weights(self, step: int, system: System, writer: int) -> None:
        """On every rank, since sharded weights are gathered, one tensor after the other; rank `writer` writes them."""
        state = {}
        for name, value in system.state_dict().items():
            whole = value.full_tensor() if isinstance(value, DTensor) else value
            if self.rank == writer:
                state[name] = whole.cpu()
        if self.rank == writer:
            counters = {"step": step - 1, "samples_seen": (step - 1) * self.config.data.batch_size}
            write(self.run_dir / "quarantine" / weights_name(step), state, self.facts | counters)


def weights_name(step: int) -> str:
    return f"{checkpoints.name(step)}-weights"


def _tensors(batch: dict):
    return (value for value in batch.values() if torch.is_tensor(value))
