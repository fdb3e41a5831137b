"""What a person sees while a run goes on: a progress bar at a terminal, plain lines in a log file, nothing from other ranks."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

log = logging.getLogger("vstrain")


def set_up_logging(run_dir: Path, rank: int) -> None:
    """Every rank writes logs/rank-N.log; rank 0 also speaks on stderr."""
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers.clear()
    (run_dir / "logs").mkdir(exist_ok=True)
    file = logging.FileHandler(run_dir / "logs" / f"rank-{rank}.log")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(file)
    if rank == 0:
        screen = logging.StreamHandler(sys.stderr)
        screen.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(screen)

    importlib.import_module("lightning.pytorch")  # it sets its loggers up when it is imported
    importlib.import_module("transformers").utils.logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


class StepProgress:
    """Progress of training steps on rank 0."""

    def __init__(self, steps: int, start: int):
        self.steps, self.start, self.began = steps, start, time.monotonic()
        self.active = int(os.environ.get("RANK", 0)) == 0
        self.bar = None
        if self.active and sys.stderr.isatty():
            self.bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self.task = self.bar.add_task("training", total=steps, completed=start, text="")
            self.bar.start()

    def step(self, step: int, loss: float | None, logged: bool) -> None:
        """`loss` is None between two log lines (reading it would wait for the device)."""
        if not self.active:
            return
        if self.bar is not None:
            fields = {"text": f"loss {loss:.4f}"} if loss is not None else {}
            self.bar.update(self.task, completed=step, **fields)
        elif logged:
            pace = (step - self.start) / (time.monotonic() - self.began)
            log.info("step %d/%d  loss %.4f  %.2f steps/s", step, self.steps, loss, pace)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


class FileProgress:
    """`with FileProgress() as advance: advance(done, total)`: a bar over files at a terminal; a file that is half done counts
    half."""

    def __enter__(self):
        self.bar = None
        if sys.stderr.isatty():
            self.bar = Progress(
                TextColumn("files"),
                BarColumn(),
                TaskProgressColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self.bar.start()
            self.task = self.bar.add_task("files", total=None)
        return self.advance

    def advance(self, done: float, total: int) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=done, total=total)

    def __exit__(self, *error) -> None:
        if self.bar is not None:
            self.bar.stop()


class RateProgress:
    """`with RateProgress("images") as progress: progress.advance(what, done, total)`, and `progress.tick(more)` in between:
    pace and time left, at a terminal as a bar, in a log as a line every `seconds`. What was done before the first call does
    not count for the pace."""

    def __init__(self, unit: str, seconds: float = 30.0):
        self.unit, self.seconds = unit, seconds

    def __enter__(self):
        self.began, self.first, self.bar = time.monotonic(), None, None
        self.said, self.said_at = self.began, None
        if sys.stderr.isatty() and int(os.environ.get("RANK", 0)) == 0:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[pace]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self.bar.start()
            self.task = self.bar.add_task(self.unit, total=None, pace="")
        return self

    def tick(self, more: int) -> None:
        if self.first is not None:
            self.advance(self.what, self.done + more, self.total)

    def advance(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        self.what, self.done, self.total = what, done, total
        if self.first is None:
            self.began, self.first = now, done
        pace = (done - self.first) / max(now - self.began, 1e-9)
        if self.bar is not None:
            self.bar.update(self.task, description=what, completed=done, total=total, pace=f"{pace:.2f} {self.unit}/s")
        elif done > self.first and (now - self.said > self.seconds or (done == total and self.said_at != done)):
            self.said, self.said_at = now, done
            log.info(
                "%s %d/%d  %.2f %s/s  %.0f s left", what, done, total, pace, self.unit, (total - done) / max(pace, 1e-9)
            )

    def __exit__(self, *error) -> None:
        if self.bar is not None:
            self.bar.stop()
