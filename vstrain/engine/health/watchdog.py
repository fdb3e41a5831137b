"""A run that hangs says which rank, where and in what, and ends, so that its launcher can start it again.

Each rank's thread writes RUN_DIR/heartbeats/rank-N.json: how far the rank is (`turn`, see meter) and what it is in. A rank that
has not moved for `timeout` seconds raises the alarm, a file that the threads of all ranks look for; they bring their heartbeats
up to date, read those of the others, and come to the same sentence: the rank that has come least far is the one that the others
wait for. A rank whose heartbeat stands still as well is dead or frozen. Files rather than a store: they need no group that works,
outlive the processes, and lie where checkpoints do. Their ages are compared by the file system's clock, never by two hosts'.

A rank whose interpreter is blocked, threads and all, is ended by faulthandler's own thread a little later.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path

import torch

from vstrain.config import rundir
from vstrain.engine.health.meter import Meter

FAILED = 1
DOING = {
    "setup": "in setting up: groups of processes, networks, checkpoint",
    "loop": "between two batches",
    "data": "waiting for data",
    "forward": "in the forward pass",
    "backward": "in the backward pass and its collectives",
    "agreement": "in the agreement of ranks",
    "optimiser": "in the optimiser step",
    "log": "writing metrics",
    "validation": "in validation",
    "save": "saving a checkpoint",
}


class Watchdog:
    """Watches the meter of this process. `timeout`: seconds in one section; it must be longer than the longest that is right."""

    def __init__(self, run_dir: Path, meter: Meter, rank: int, world: int, timeout: float):
        self.run_dir, self.meter, self.rank, self.world, self.timeout = run_dir, meter, rank, world, timeout
        self.interval = min(60.0, max(0.2, timeout / 10))
        self.folder = run_dir / "heartbeats"
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self.folder.mkdir(exist_ok=True)
        self.stacks = (self.run_dir / "logs" / f"rank-{self.rank}.stacks").open("w")
        self.meter.enter(self.meter.section)
        self.began = self._beat()
        self.thread.start()
        return self

    def __exit__(self, *error) -> None:
        self.ended.set()
        self.thread.join()
        faulthandler.cancel_dump_traceback_later()
        self.stacks.close()

    def _watch(self) -> None:
        while not self.ended.wait(self.interval):
            faulthandler.dump_traceback_later(self.timeout + 5 * self.interval, exit=True, file=self.stacks)
            now = self._beat()
            if time.monotonic() - self.meter.since > self.timeout:
                (self.folder / "alarm").touch()
            if mtime(self.folder / "alarm") > max(self.began, now - self.timeout):
                self._end()

    def _beat(self) -> float:
        """Write the heartbeat; returns the file system's time."""
        meter = self.meter
        values = {
            "rank": self.rank,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "turn": meter.turn,
            "step": meter.step,
            "section": meter.section,
            "seconds": time.monotonic() - meter.since,
        }
        path = self.folder / f"rank-{self.rank}.json"
        rundir.write_atomic(path, json.dumps(values))
        return mtime(path)

    def _end(self) -> None:
        """Say who hangs, leave stacks, and end this process. The others do the same at the same time."""
        self.ended.wait(2 * self.interval)
        now = self._beat()
        self.ended.wait(self.interval)
        beats = [self._read(rank, now) for rank in range(self.world)]
        culprit, sentence = name_culprit(beats, self.timeout)
        alive = [rank for rank, beat in enumerate(beats) if beat["alive"]]
        speaker = culprit if culprit in alive else min(alive, default=self.rank)
        sentence += f"; what each rank was doing is in {self.run_dir / 'logs'}/rank-*.stacks"
        if self.rank == speaker:
            rundir.set_state(self.run_dir, "failed", error=sentence, code=FAILED, cause="hang")
            print(sentence, file=sys.stderr, flush=True)
        print(sentence, file=self.stacks, flush=True)
        faulthandler.dump_traceback(self.stacks, all_threads=True)
        self._flight_recorder()
        self.ended.wait(self.interval)
        os._exit(FAILED)

    def _read(self, rank: int, now: float) -> dict:
        path = self.folder / f"rank-{rank}.json"
        try:
            beat = json.loads(path.read_text())
        except (OSError, ValueError):
            return {"rank": rank, "host": "unknown", "alive": False, "silent": now - self.began, "turn": -1}
        silent = now - mtime(path)
        return beat | {"alive": silent < 4 * self.interval + 1, "silent": silent}

    def _flight_recorder(self) -> None:
        """What NCCL recorded of the last collectives, for torch's analyser (torchfrtrace)."""
        if (
            torch.cuda.is_available()
            and torch.distributed.is_initialized()
            and torch.distributed.get_backend() == "nccl"
        ):
            data = torch._C._distributed_c10d._dump_nccl_trace()
            (self.run_dir / "logs" / f"nccl-rank-{self.rank}").write_bytes(data)


def name_culprit(beats: list[dict], timeout: float) -> tuple[int | None, str]:
    """(rank, sentence) from the heartbeats of all ranks; None when none of them is behind."""
    silent = [beat for beat in beats if not beat["alive"]]
    if silent:
        beat = min(silent, key=lambda beat: beat["turn"])
        return beat["rank"], (
            f"rank {beat['rank']} ({beat['host']}) has not been heard of for {beat['silent']:.0f} s "
            f"(guards.timeout={timeout:g}): its process or its host is gone or frozen, and the other ranks wait for it"
        )
    least = min(beat["turn"] for beat in beats)
    behind = [beat for beat in beats if beat["turn"] == least]
    beat = behind[0]
    doing = f"{DOING[beat['section']]} of step {beat['step']} for {beat['seconds']:.0f} s (guards.timeout={timeout:g})"
    if len(behind) < len(beats):
        return beat["rank"], f"rank {beat['rank']} ({beat['host']}) hangs: {doing}, and the other ranks wait for it"
    if len(beats) == 1:
        return 0, f"rank 0 ({beat['host']}) hangs: {doing}"
    return None, f"all {len(beats)} ranks hang: {doing}; a collective or a device does not come back"


def record_collectives(run_dir: Path) -> None:
    """Before the first group is made: NCCL keeps its last collectives, and writes them down should it time out itself."""
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "2000")
    os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "1")
    os.environ.setdefault("TORCH_FR_DUMP_TEMP_FILE", str(run_dir / "logs" / "nccl-rank-"))


def mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
