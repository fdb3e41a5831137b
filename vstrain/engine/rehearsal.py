"""A rehearsal from inside a run (vstrain.config.rehearsal): it records which samples a step has, and strikes once."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch import Callback, Trainer

from vstrain.config import rehearsal
from vstrain.system import System


def callbacks(run_dir: Path) -> list[Callback]:
    """None, unless this process has been given an order."""
    order = rehearsal.order()
    return [Rehearsal(run_dir, order)] if order else []


class Rehearsal(Callback):
    def __init__(self, run_dir: Path, order: rehearsal.Order):
        self.run_dir, self.order = run_dir, order
        self.struck = False

    def on_train_start(self, trainer: Trainer, system: System) -> None:
        folder, order = self.run_dir / rehearsal.RECORD, self.order
        folder.mkdir(exist_ok=True)
        self.file = (folder / f"rank-{trainer.global_rank}.jsonl").open("a", buffering=1)  # a line survives a SIGKILL
        if order.rank != trainer.global_rank:
            return
        if order.kind in ("term", "kill", "nan"):
            system.objective = self._struck(system.objective, trainer)
        elif order.kind == "kill_in_save":
            sys.addaudithook(self._killer())

    def on_train_batch_start(self, trainer: Trainer, system: System, batch: dict, batch_idx: int) -> None:
        row = {"attempt": self.order.attempt, "step": trainer.global_step + 1, "rank": trainer.global_rank}
        self.file.write(json.dumps(row | {"keys": batch["key"].tolist()}) + "\n")
        if self.order.kind == "file_limit" and trainer.global_step + 1 >= self.order.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.order.count, resource.RLIM_INFINITY))

    def _struck(self, objective: Callable, trainer: Trainer) -> Callable:
        """`objective`, which has the fault between the forward and the backward pass of its step."""

        def run(batch: dict):
            found = objective(batch)
            if trainer.global_step + 1 != self.order.step or self.struck:
                return found
            self.struck = True
            if self.order.kind == "nan":
                return found._replace(loss=found.loss * float("nan"))
            os.kill(os.getpid(), signal.SIGTERM if self.order.kind == "term" else signal.SIGKILL)
            return found

        return run

    def _killer(self) -> Callable:
        """An audit hook, so that no thread that saves need know of it: ends this process at the file operation."""
        folder, seen = str(self.run_dir / "checkpoints") + "/.step-", 0

        def watch(event: str, arguments: tuple) -> None:
            nonlocal seen
            if event not in ("open", "os.rename") or not (path := str(arguments[0])).startswith(folder):
                return
            if int(path.removeprefix(folder).partition(".")[0]) >= self.order.step:  # that it saves, not that it trains
                if seen == self.order.count:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1

        return watch
