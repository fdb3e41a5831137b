"""Where the time of a run goes. The host is always in exactly one section, so the sections of a step add up to its wall time.

Ranks run the same program, so they enter the same sections in the same order: `turn`, their number so far, tells a rank that
waits from one that is waited for (see watchdog). Nothing here makes the host wait for a device.
"""

from __future__ import annotations

import json
import os
import resource
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from vstrain.engine import hardware

SECTIONS = {  # section -> metric that counts it
    "setup": "other",
    "loop": "other",
    "data": "data",
    "forward": "compute",
    "backward": "compute",
    "agreement": "communication",
    "optimiser": "compute",
    "log": "other",
    "validation": "validation",
    "save": "save",
}
USEFUL = ("data", "forward", "backward", "agreement", "optimiser", "loop")
CLOCK = "clock.jsonl"


class Meter:
    """`step` is the step that is going on. One object a process; `enter` costs about a microsecond."""

    def __init__(self, start_step: int = 0):
        self.section, self.turn, self.step, self.first = "setup", 0, start_step, start_step
        self.since = self.began = time.monotonic()
        self.spent = dict.fromkeys(SECTIONS, 0.0)  # seconds since `restart`
        self.useful = 0.0  # seconds in steps, before the last `restart`

    def enter(self, section: str) -> None:
        now = time.monotonic()
        self.spent[self.section] += now - self.since
        self.section, self.since, self.turn = section, now, self.turn + 1

    @contextmanager
    def inside(self, section: str):
        before = self.section
        self.enter(section)
        try:
            yield
        finally:
            self.enter(before)

    def restart(self, step: int) -> None:
        """A new window begins, after `step` steps."""
        self.enter(self.section)
        self.useful = self.useful_now()
        self.spent = dict.fromkeys(SECTIONS, 0.0)
        self.began, self.first = self.since, step

    def useful_now(self) -> float:
        """Seconds that this start has spent in steps."""
        return self.useful + sum(self.spent[section] for section in USEFUL)

    def window(self, step: int) -> dict[str, float]:
        """Seconds a step since `restart`, by what they went into; time/step is their sum."""
        self.enter(self.section)
        steps = max(1, step - self.first)
        found = dict.fromkeys((f"time/{name}" for name in ("step", *SECTIONS.values())), 0.0)
        for section, seconds in self.spent.items():
            found["time/step"] += seconds / steps
            found[f"time/{SECTIONS[section]}"] += seconds / steps
        return found


class Ledger:
    """What a run directory has come to over all its starts: clock.jsonl, lines {started}, {step, useful} and {flops}.

    Useful are the seconds in steps (waiting for data and other ranks included) that are part of the run's history: what a
    crash threw away, start-up, saving, validation and time in a queue are not."""

    def __init__(self, run_dir: Path, start_step: int, writes: bool):
        self.path, self.writes = run_dir / CLOCK, writes
        lines = [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []
        self.started = next((line["started"] for line in lines if "started" in line), None)
        self.flops = next((line["flops"] for line in lines if "flops" in line), None)
        kept = [line for line in lines if line.get("step", start_step + 1) <= start_step]
        self.before = max(kept, key=lambda line: line["step"])["useful"] if kept else 0.0
        if self.started is None:
            self.started = time.time()
            self._append({"started": self.started})

    def goodput(self, useful: float) -> float:
        """Share of the wall time since the run directory was first started; `useful`: seconds of this start."""
        return (self.before + useful) / max(1e-9, time.time() - self.started)

    def note(self, step: int, useful: float) -> None:
        """At each checkpoint: what a resume from it will count on."""
        self._append({"step": step, "useful": self.before + useful})

    def count(self, flops: float) -> None:
        """FLOPs of one sample, forward and backward."""
        self.flops = flops
        self._append({"flops": flops})

    def _append(self, line: dict) -> None:
        if self.writes:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def speed(
    flops_per_sample: float | None, samples: float, seconds: float, devices: int, device: torch.device, half: bool
):
    """time/tflops of one device, and time/mfu where its peak is known. Recomputation by checkpointing counts as work."""
    if flops_per_sample is None or seconds <= 0:
        return {}
    rate = flops_per_sample * samples / seconds / devices
    peak = hardware.peak(torch.cuda.get_device_name(device), half) if device.type == "cuda" else None
    return {"time/tflops": rate / 1e12} | ({"time/mfu": rate / peak} if peak else {})


def memory(device: torch.device) -> dict[str, float]:
    """GiB of this process: the largest on the device since the last call, or of main memory since its start."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return {
            "memory/device_peak_gib": peak / 2**30,
            "memory/device_reserved_gib": torch.cuda.memory_reserved(device) / 2**30,
        }
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"memory/rss_gib": pages * os.sysconf("SC_PAGESIZE") / 2**30, "memory/rss_peak_gib": peak / 2**30}


class FlopCount:
    """FLOPs of one micro-batch, counted while it runs for the first time."""

    def __init__(self):
        self.mode = FlopCounterMode(display=False)
        self.mode.__enter__()

    def end(self, samples: int) -> float:
        """A sample's share."""
        self.mode.__exit__(None, None, None)
        return self.mode.get_total_flops() / samples
