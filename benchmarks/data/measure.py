"""One measurement: a fresh process runs one loader and says what it cost.

`spawn(job)` starts `python -m benchmarks.data.measure JOB` with OMP_NUM_THREADS=1 and reads its last line, JSON:
first_s    seconds from making the loader to its first batch (libraries imported before)
cpu_ms     CPU milliseconds a sample after that: this process and all its children, living or ended
wall_ms    wall milliseconds a sample
pss_mb     memory of the process tree, shared pages counted once
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

RESULT = "RESULT "


@dataclass
class Job:
    peer: str
    corpus: str
    function: str = "images"
    workers: int = 2
    warm: int = 10  # batches before the clock starts
    batches: int = 100  # batches on the clock
    position: int = 0  # first sample, for loaders that can be told
    load: str = ""  # file with the state to continue from
    save: str = ""  # file that receives the state after the last batch
    trace: int = 0  # note the memory (rss) every so many batches
    build: bool = False  # only make the peer's own format

    @property
    def variant(self) -> str:
        return "images" if self.function == "images" else "depth"


def spawn(job: Job, timeout: float = 900) -> dict:
    """The result, or {"error": one line}."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.data.measure", json.dumps(asdict(job))]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return {"error": f"no result in {timeout:.0f} s"}
    results = [line[len(RESULT) :] for line in output.splitlines() if line.startswith(RESULT)]
    if results:
        return json.loads(results[-1])
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    said = [line for line in lines if "Error" in line.split(":")[0]] or lines or [f"exit code {process.returncode}"]
    return {"error": said[-1][:200]}


def tree() -> list[psutil.Process]:
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def cpu_seconds() -> float:
    """Of the living tree and of the children that ended and were waited for."""
    total = 0.0
    for process in tree():
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def memory(kind: str = "pss") -> float:
    """MB of the tree; pss counts shared pages once, rss once for each process."""
    total = 0
    for process in tree():
        try:
            total += process.memory_full_info().pss if kind == "pss" else process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


def touch(batch) -> int:
    """Read one byte of every page of the batch, as a copy to the device would; the number of samples."""
    count = 0
    for value in batch.values() if isinstance(batch, dict) else batch:
        if hasattr(value, "numpy"):
            value = value.numpy()
        if isinstance(value, np.ndarray) and value.ndim > 1:
            value.reshape(-1).view(np.uint8)[::4096].sum()
            count = len(value)
    return count


def run(job: Job) -> dict:
    from benchmarks.data.peers import all_peers

    peer = all_peers()[job.peer]()
    peer.prepare(job)
    if job.build:
        return {}
    start, used = time.perf_counter(), cpu_seconds()
    batches = iter(peer.batches(job))
    touch(next(batches))
    result = {"first_s": time.perf_counter() - start, "first_cpu_s": cpu_seconds() - used}
    for _ in range(job.warm - 1):
        touch(next(batches))
    start, used = time.perf_counter(), cpu_seconds()
    samples, trace = 0, []
    for number in range(job.batches):
        samples += touch(next(batches))
        if job.trace and number % job.trace == 0:
            trace.append(memory("rss"))
    if samples:
        result["wall_ms"] = 1e3 * (time.perf_counter() - start) / samples
        result["cpu_ms"] = 1e3 * (cpu_seconds() - used) / samples
        result["pss_mb"] = memory()
    if job.save:
        Path(job.save).write_bytes(peer.state())
    return {**result, "samples": samples, **({"trace_mb": trace} if trace else {})}


def main() -> None:
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    result = run(Job(**json.loads(sys.argv[1])))
    print("\n" + RESULT + json.dumps(result), flush=True)
    for process in tree()[1:]:  # some peers wait long for their workers
        process.kill()
    os._exit(0)


if __name__ == "__main__":
    main()
