"""Data workers that write whole batches into memory they share with the trainer: what travels between them is slot numbers.

Batch k is made by worker k mod W, so the order does not depend on W. A batch is handed out as views of its slot, and the
slot is used again when the last of them is gone. The memory has no name in the file system: nothing is left of it
when a process is killed.
"""

from __future__ import annotations

import logging
import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
import types
import weakref
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vstrain.data.problems import DataError
from vstrain.data.work import Damage, Layout, Work, fill

log = logging.getLogger("vstrain")
BOARD = 64  # bytes at the start of the memory for each worker: int64 items begun, int64 position, int64 process id
WAKING = 120.0  # seconds that a worker may take to start
SPARE = 2  # slots that may be in the trainer's hands while all workers are busy
SINGLE_THREADED = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


class Batch(NamedTuple):
    arrays: dict[str, np.ndarray]  # item name -> (B, ...)
    words: dict[str, list[str]]  # of items that are strings
    damaged: list[Damage]  # what was replaced


class Ring:
    """Batches of `plan` (plan[k]: the positions of batch k), made by `workers` processes, each up to `ahead` batches ahead.

    timeout: seconds without any progress after which a worker counts as hanging. A worker that died or hangs is named in
    the log and replaced; if that happens again at the same batch, the run ends with a DataError that names the sample."""

    def __init__(self, work: Work, plan, workers: int, *, ahead: int, timeout: float):
        self.work, self.plan, self.timeout = work, plan, timeout
        self.workers, self.ahead = min(workers, max(1, len(plan) - 1)), ahead

    def __iter__(self) -> Iterator[Batch]:
        if not len(self.plan):
            return
        first = next(self.work.items(self.plan[0][:1], []))  # tells how large a slot must be
        starter = ThreadPoolExecutor(1, "start-data-workers")
        starting = starter.submit(Crew, self, self._slot_bytes(first))
        try:
            # the trainer makes the first batch itself while the workers start
            damaged: list[Damage] = []
            layout, words, block = fill(self.work, self.plan[0], damaged, fresh)
            yield Batch(layout.views(block), words, damaged)
            del block
            crew = starting.result()
            for number in range(1, len(self.plan)):
                yield crew.take(number)
        finally:
            starter.shutdown()
            if not starting.exception():
                starting.result().stop()

    def _slot_bytes(self, item: dict) -> int:
        nbytes = Layout.of(item, max(len(self.plan[0]), len(self.plan[-1]))).nbytes
        buckets = self.work.stream.buckets
        if buckets:  # arrays grow at most as the largest shape does
            shapes = [bucket.height * bucket.width * max(1, bucket.frames) for bucket in buckets.buckets]
            nbytes = nbytes * max(shapes) // min(shapes)
        return nbytes + 4096


class Crew:
    """The workers of a ring, started and busy with the batches from number 1 on, and their memory."""

    def __init__(self, ring: Ring, slot_bytes: int):
        self.plan, self.ahead, self.given = ring.plan, ring.ahead, 1
        self.memory = Memory(ring.workers, slot_bytes, ring.workers * ring.ahead + SPARE)
        self.workers = [Worker(number, ring.work, self.memory, ring.timeout) for number in range(ring.workers)]
        for worker in self.workers:
            worker.start()
        self.deal()

    def deal(self) -> None:
        """Give out batches in order, while there are free slots and the next worker has fewer than `ahead` of them."""
        while self.given < len(self.plan) and self.memory.free:
            worker = self.workers[self.given % len(self.workers)]
            if len(worker.tasks) >= self.ahead:
                return
            worker.give(Task(self.given, self.memory.free.popleft(), self.plan[self.given]))
            self.given += 1

    def take(self, number: int) -> Batch:
        self.deal()
        slot, layout, words, damaged = self.workers[number % len(self.workers)].take()
        batch = Batch(self.memory.hand_out(slot, layout), words, damaged)
        self.deal()
        return batch

    def stop(self) -> None:
        for worker in self.workers:
            worker.stop()


def fresh(nbytes: int) -> np.ndarray:
    """Private memory for one batch."""
    return np.empty(nbytes, np.uint8)


class Memory:
    """Boards and slots in one anonymous shared block. `free`: slots that nobody writes or reads."""

    def __init__(self, workers: int, slot_bytes: int, slots: int):
        self.page = -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.start = -(-workers * BOARD // mmap.PAGESIZE) * mmap.PAGESIZE
        self.nbytes = self.start + slots * self.page
        self.free, self.lent = deque(range(slots)), Counter()
        folder = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as the mapping; has no name
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self.file.fileno(), 0, self.nbytes)
            else:
                os.ftruncate(self.file.fileno(), self.nbytes)
        except OSError as error:
            raise DataError(
                f"{folder or tempfile.gettempdir()}: no room for {self.nbytes / 1e6:.0f} MB of shared memory for data workers "
                f"({error.strerror}); lower data.workers or data.ahead, or give the container more (--shm-size)"
            ) from error
        self.block = np.frombuffer(mmap.mmap(self.file.fileno(), self.nbytes), np.uint8)

    def board(self, worker: int) -> np.ndarray:
        return self.block[worker * BOARD : (worker + 1) * BOARD].view(np.int64)

    def slot(self, number: int) -> np.ndarray:
        return self.block[self.start + number * self.page : self.start + (number + 1) * self.page]

    def hand_out(self, slot: int, layout: Layout) -> dict[str, np.ndarray]:
        """The arrays of a slot. It becomes free when all of them, and whatever is a view of them, are gone. Where too many
        slots are held already, the arrays are copies."""
        views = layout.views(self.slot(slot))
        if len(self.lent) >= SPARE or not views:
            self.free.append(slot)
            return {name: view.copy() for name, view in views.items()}
        self.lent[slot] = len(views)
        for view in views.values():
            weakref.finalize(view, self._return, slot).atexit = False
        return views

    def _return(self, slot: int) -> None:
        self.lent[slot] -= 1
        if not self.lent[slot]:
            del self.lent[slot]
            self.free.append(slot)


class Task(NamedTuple):
    number: int  # of the batch
    slot: int
    positions: np.ndarray


class Worker:
    """One data worker, as the trainer sees it. tasks: what it was given and has not answered, in order."""

    def __init__(self, number: int, work: Work, memory: Memory, timeout: float):
        self.number, self.work, self.memory, self.timeout = number, work, memory, timeout
        self.tasks: deque[Task] = deque()
        self.failed_at = -1

    def start(self) -> None:
        context = _context()
        self.connection, theirs = context.Pipe()
        memory = self.memory
        shared = Shared(DupFd(memory.file.fileno()), memory.nbytes, memory.start, memory.page)
        environment = dict(os.environ) | SINGLE_THREADED
        self.process = context.Process(
            target=_serve,
            args=(self.number, theirs, self.work, shared, environment),
            name=f"data worker {self.number}",
            daemon=True,
        )
        with _without_main(self.work.prepare):
            self.process.start()
        theirs.close()

    def give(self, task: Task) -> None:
        self.tasks.append(task)
        with suppress(OSError):  # of a dead worker, which `take` will find out
            self.connection.send((task.slot, task.positions))

    def take(self) -> tuple[int, Layout, dict[str, list[str]], list[Damage]]:
        """(slot, layout, strings, damaged samples) of the oldest task."""
        seen, since = None, time.monotonic()
        while True:
            ready = wait([self.connection, self.process.sentinel], timeout=min(1.0, self.timeout / 4))
            if self.connection in ready:
                try:
                    answer = self.connection.recv()
                except (EOFError, OSError, pickle.UnpicklingError):
                    answer = None
                if isinstance(answer, Failure):
                    answer.throw(self.process.name)
                if answer is not None:
                    return self.tasks.popleft().slot, *answer
            if ready:
                self.process.join(5)
                self._replace(f"died ({_cause(self.process.exitcode)})")
                seen, since = None, time.monotonic()
            begun, _, awake = self.memory.board(self.number)[:3].tolist()
            patience = self.timeout if awake == self.process.pid else max(self.timeout, WAKING)
            if begun != seen:
                seen, since = begun, time.monotonic()
            elif time.monotonic() - since > patience:
                self._replace(f"made no progress for {self.timeout:g} s")
                seen, since = None, time.monotonic()

    def _replace(self, what: str) -> None:
        position, task = int(self.memory.board(self.number)[1]), self.tasks[0]
        place = f"position {position}" + (f" ({name})" if (name := self._sample_at(position)) else "")
        message = f"data worker {self.number} (process {self.process.pid}) {what} at {place}"
        self.process.kill()
        self.connection.close()
        if self.failed_at == task.number:
            raise DataError(
                f"{message}, twice in the same batch; look at this sample and at the memory of the machine, or set "
                "data.workers=0 to see the error in the training process"
            )
        self.failed_at = task.number
        log.warning("%s; starting another one", message)
        self.start()
        tasks, self.tasks = self.tasks, deque()
        for task in tasks:
            self.give(task)

    def _sample_at(self, position: int) -> str:
        places = self.work.stream.places(np.array([position]))
        index = self.work.readers[int(places.source[0])].index
        sample = int(places.sample[0])
        return f"sample {index.key(sample)} in {index.shards[int(index.shard[sample])]}"

    def stop(self) -> None:
        self.connection.close()  # it ends at the next read
        if self.tasks:
            self.process.kill()


class Failure(NamedTuple):
    """An exception on its way from a worker to the trainer."""

    error: bytes | None  # pickled, where that is possible
    text: str

    def throw(self, worker: str) -> None:
        error = pickle.loads(self.error) if self.error else None
        if isinstance(error, DataError):
            raise error
        raise (error or RuntimeError(f"{worker} failed")) from RuntimeError(f"in {worker}:\n{self.text}")


def _cause(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        return name + (", perhaps for want of memory" if name == "SIGKILL" else "")
    return f"exit code {exitcode}"


def _context():
    """Workers come from a clean server process: a fork of this one could inherit a lock that some thread holds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vstrain.data.worker_imports"])
    before = {name: os.environ.get(name) for name in SINGLE_THREADED}
    os.environ.update(SINGLE_THREADED)
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return context


@contextmanager
def _without_main(prepare):
    """Keep a new process from importing this one's main module, and with it torch, unless `prepare` was defined there."""
    main = sys.modules["__main__"]
    if getattr(prepare, "__module__", "") == "__main__":
        yield
        return
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


# ---- in the worker ------------------------------------------------------------------------------------------------------


class Shared(NamedTuple):
    """A `Memory` on its way to a worker."""

    file: DupFd
    nbytes: int
    start: int  # of the first slot
    page: int  # bytes of a slot


def _serve(number: int, connection: Connection, work: Work, shared: Shared, environment: dict[str, str]) -> None:
    """Answer (slot, positions) with (layout, strings, damaged samples) until the trainer closes the connection."""
    import cv2

    os.environ.update(environment)  # the server that this process was forked from may be older than a change of it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; only the trainer answers it
    cv2.setNumThreads(1)
    block = np.frombuffer(mmap.mmap(shared.file.detach(), shared.nbytes), np.uint8)
    board = block[number * BOARD : (number + 1) * BOARD].view(np.int64)
    board[2] = os.getpid()

    def begin(position: int) -> None:
        board[1] = position
        board[0] += 1

    try:
        while True:
            slot, positions = connection.recv()
            memory = block[shared.start + slot * shared.page :][: shared.page]
            damaged: list[Damage] = []
            try:
                layout, words, _ = fill(
                    work, positions, damaged, lambda nbytes, memory=memory: _fit(memory, nbytes), begin
                )
                answer = (layout, words, damaged)
            except Exception as error:
                answer = Failure(_pickled(error), traceback.format_exc())
            connection.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(0)


def _fit(memory: np.ndarray, nbytes: int) -> np.ndarray:
    if nbytes > len(memory):
        raise DataError(
            f"a batch of {nbytes} bytes does not fit the {len(memory)} bytes that the first sample asked for; all items of a "
            "system must have one shape, or one for each of data.buckets"
        )
    return memory


def _pickled(error: Exception) -> bytes | None:
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        return None
    return data
