"""Saving: a step waits for a copy of the state in host memory; a thread on each rank writes it.

The threads speak over a process group of their own, so that nothing they do can meet a collective of training. When all ranks
have written and read back their files, rank 0 makes the checkpoint visible and every rank learns how it went. Training never
waits for that, except before the next save, and at the last one.
"""

from __future__ import annotations

import logging
import shutil
import threading
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from vstrain.config import checkpoints
from vstrain.config.problems import InputError
from vstrain.config.schema import Checkpoint
from vstrain.data.stream import Share
from vstrain.engine.checkpoint import folder
from vstrain.engine.checkpoint.pieces import Snapshot
from vstrain.engine.checkpoint.state import State

log = logging.getLogger("vstrain")
PATIENCE = timedelta(hours=2)  # how long a rank may write while the others wait


class Saver:
    """Makes checkpoints in `directory`. To be built on all ranks at the same time.

    facts: what every meta.json holds. writers: how many ranks have something to write, 1 or all.
    """

    def __init__(self, directory: Path, policy: Checkpoint, facts: dict, share: Share, writers: int):
        self.directory, self.policy, self.facts = directory, policy, facts
        self.share, self.writers = share, writers
        self.failed: str | None = None  # why the last save came to nothing
        self._snapshot, self._thread = Snapshot(), None
        if share.rank == 0:
            folder.clear(directory)
        self._group = dist.new_group(backend="gloo", timeout=PATIENCE) if share.world > 1 else None
        if self._group is not None:
            dist.barrier(self._group)

    def save(self, state: State, facts: dict, wait: bool) -> None:
        """Begin a checkpoint of the pieces `state`; `facts` must have `step` and `values`. wait: return when it is there,
        and raise InputError, on every rank, when it cannot be written."""
        self.finish()
        taken = self._snapshot.take(state)
        path = self.directory / checkpoints.name(facts["step"])
        self._thread = threading.Thread(target=self._write, args=(path, taken, self.facts | facts), daemon=True)
        self._thread.start()
        if wait or not self.policy.asynchronous:
            self.finish(report=False)
            if self.failed and wait:
                raise InputError(self.failed)
            self._report()

    def poll(self) -> None:
        """Say it if a save has failed since; never waits."""
        if self._thread is not None and not self._thread.is_alive():
            self.finish()

    def finish(self, report: bool = True, timeout: float | None = None) -> None:
        """Wait for what is being written."""
        if self._thread is not None:
            self._thread.join(timeout)
            self._thread = None
        if report:
            self._report()

    def _report(self) -> None:
        if self.failed and self.share.rank == 0:
            log.error("%s; training goes on, the next checkpoint is tried as planned", self.failed)
        self.failed = None

    def _write(self, path: Path, state: State, facts: dict) -> None:
        files, reason = {}, None
        try:
            if self.share.rank < self.writers:
                files = folder.write_files(folder.temporary(path), state, self.share.rank, self.writers)
        except Exception as error:  # whatever it is, the other ranks must hear of it
            reason = f"rank {self.share.rank}: {error}" if self.share.world > 1 else str(error)
        reports = self._gather((files, reason))
        reason = next((reason for _, reason in reports if reason), None)
        if self.share.rank == 0 and not reason:
            try:
                everything = {name: checksum for files, _ in reports for name, checksum in sorted(files.items())}
                folder.publish(path, facts | {"files": everything}, self.policy)
            except Exception as error:
                reason = str(error)
        reason = self._gather(reason)[0]
        if reason:
            self.failed = folder.failure(path, reason)
            if self.share.rank == 0:
                shutil.rmtree(folder.temporary(path), ignore_errors=True)

    def _gather(self, value) -> list:
        if self._group is None:
            return [value]
        everyone = [None] * self.share.world
        dist.all_gather_object(everyone, value, group=self._group)
        return everyone
