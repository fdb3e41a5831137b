"""Who does the tasks of a production: this process, a pool of processes, or Ray; and which part of them is this job's.

An executor is a generator: `executor(work, tasks, processes)` yields `work(task)` for every task as they end, in any
order. `work` and tasks must be picklable. The first exception ends it; what is under way elsewhere is given up.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, Literal, NamedTuple

from pydantic import field_validator

from vstrain.config.problems import InputError
from vstrain.config.strict import PositiveInt, Strict

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Work = Callable[[Any], Any]


class Execution(Strict):
    """The keys that say where a pipeline runs; they never change what it writes."""

    executor: Literal["in_process", "pool", "ray"]
    processes: PositiveInt | None  # null: one a core (ray: as many as the cluster runs)
    part: str  # auto, all, or 2/8: the second of eight jobs that share the work, each started with its own number

    @field_validator("part")
    @classmethod
    def _readable(cls, part: str) -> str:
        if part not in ("auto", "all"):
            number, _, count = part.partition("/")
            if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
                raise ValueError(
                    f"part={part}: expected auto, all or NUMBER/COUNT such as 2/8 (1/8 is the first of eight)"
                )
        return part


class Part(NamedTuple):
    """This job takes the tasks `number`, `number` + `count`, …"""

    number: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.number + 1}/{self.count}"


def part_of(part: str, environment: dict[str, str] | os._Environ = os.environ) -> Part:
    """What `part` means here; auto: the place in a SLURM array or among torchrun's ranks, else everything."""
    if "/" in part:
        number, count = map(int, part.split("/"))
        return Part(number - 1, count)
    if part == "all":
        return Part()
    get = environment.get
    if "SLURM_ARRAY_TASK_ID" in environment:
        first, step = int(get("SLURM_ARRAY_TASK_MIN", "0")), int(get("SLURM_ARRAY_TASK_STEP", "1"))
        number, left = divmod(int(environment["SLURM_ARRAY_TASK_ID"]) - first, step)
        count = int(get("SLURM_ARRAY_TASK_COUNT", "0"))
        if left or not 0 <= number < count:
            raise InputError(
                f"part=auto: SLURM array task {environment['SLURM_ARRAY_TASK_ID']} is none of {count} evenly spaced ones; "
                "number the array from first to last (--array=0-7), or give part=NUMBER/COUNT"
            )
        return Part(number, count)
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return Part(int(environment["RANK"]), int(environment["WORLD_SIZE"]))
    return Part()


def in_process(work: Work, tasks: list, processes: int | None) -> Iterator:
    """One after the other, here."""
    for task in tasks:
        yield _with_one_thread(work, task)


def pool(work: Work, tasks: list, processes: int | None) -> Iterator:
    """Processes of one thread each, from a fork server. One that is killed is one sentence; they end with this process."""
    processes = min(processes or len(os.sched_getaffinity(0)), len(tasks))
    if processes <= 1:
        yield from in_process(work, tasks, 1)
        return
    others = set(multiprocessing.active_children())
    workers = ProcessPoolExecutor(processes, multiprocessing.get_context("forkserver"), initializer=_start_worker)
    coming, ahead = iter(tasks), set()
    try:
        while True:
            ahead |= {workers.submit(work, task) for task in islice(coming, 2 * processes - len(ahead))}
            if not ahead:
                break
            done, ahead = wait(ahead, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
        workers.shutdown()
    except BrokenProcessPool as error:
        raise InputError(
            "a worker process was killed, perhaps for want of memory; run the same command again to go on from the last "
            "finished shard, with a smaller processes= where memory is short"
        ) from error
    finally:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        workers.shutdown(cancel_futures=True)


def ray(work: Work, tasks: list, processes: int | None) -> Iterator:
    """Ray tasks of one core each, on the cluster that RAY_ADDRESS names or on a Ray started here."""
    try:
        import ray
    except ImportError as error:
        raise InputError("executor=ray needs Ray: pip install 'vstrain[ray]', or take executor=pool") from error
    ours = not ray.is_initialized()
    if ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            num_cpus=None if os.environ.get("RAY_ADDRESS") else processes,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"env_vars": dict.fromkeys(THREADS, "1")},
        )
    remote = ray.remote(num_cpus=1, max_retries=0)(_with_one_thread)
    most = processes or 2 * int(ray.cluster_resources().get("CPU", 1))
    coming, ahead = iter(tasks), []
    shared = ray.put(work)
    try:
        while True:
            ahead += [remote.remote(shared, task) for task in islice(coming, most - len(ahead))]
            if not ahead:
                return
            done, ahead = ray.wait(ahead, num_returns=1)
            yield from ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise getattr(error, "cause", error) from None
    except ray.exceptions.RayError as error:
        raise InputError(
            f"Ray lost a worker ({type(error).__name__}), perhaps for want of memory; run the same command again to go on "
            "from the last finished shard"
        ) from error
    finally:
        for reference in ahead:
            ray.cancel(reference, force=True)
        if ours:
            ray.shutdown()


EXECUTORS = {"in_process": in_process, "pool": pool, "ray": ray}


def _with_one_thread(work: Work, task: Any) -> Any:
    _one_thread()
    return work(task)


def _start_worker() -> None:
    """Ctrl-C is for the process that wanted the worker, and ends it; a worker never outlives that process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(dict.fromkeys(THREADS, "1"))
    _one_thread()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _one_thread() -> None:
    """OpenCV takes one thread and says nothing: damaged files are reported by the pipelines."""
    import cv2

    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
