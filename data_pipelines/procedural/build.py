"""Renders a kind's splits in a pool of processes and writes them as shards, always in index order.

Sample i of a split depends on (config, split, i) alone, so the shards are the same bytes for any number of processes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import cv2
import xxhash

from data_pipelines.procedural.config import World, splits
from vstrain.data.writer import ShardWriter, encode_sample

VERSION = 3  # raise it when the same config would render other pictures
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Progress = Callable[[str, int, int], None]  # (split, samples done, samples in all)


def config_digest(kind: str, config: World) -> str:
    """Twelve hex digits that change with the config or the generator: the name of a data set's folder."""
    return xxhash.xxh3_64_hexdigest(f"{VERSION}/{kind}/{config.model_dump_json()}".encode())[:12]


def make(kind: str, config: World, split: str, index: int) -> dict:
    """Sample `index` of `split` of `kind`, as vstrain.data.kinds describes it."""
    return import_module(f"data_pipelines.procedural.{kind}").make(config, split, index)


def build(kind: str, config: World, directory: Path, processes: int, progress: Progress) -> None:
    """Write `<split>-000000.tar`, … for every split of the config into `directory`."""
    with _pool(processes) as pool:
        for split, count in splits(config).items():
            progress(split, 0, count)
            with ShardWriter(directory, split, kind) as writer:
                for done, sample in enumerate(_samples(pool, processes, kind, config, split, count), 1):
                    writer.write(sample)
                    progress(split, done, count)


def _samples(
    pool: ProcessPoolExecutor | None, processes: int, kind: str, config: World, split: str, count: int
) -> Iterator[dict]:
    """The samples in order; with a pool, a few are rendered ahead, never all of them."""
    if pool is None:
        yield from (make(kind, config, split, index) for index in range(count))
        return
    ahead: deque = deque()
    for index in range(count):
        ahead.append(pool.submit(_encoded, kind, config, split, index))
        if len(ahead) > 8 * processes:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def _encoded(kind: str, config: World, split: str, index: int) -> dict:
    return encode_sample(kind, make(kind, config, split, index))


@contextmanager
def _pool(processes: int):
    """`processes` spawned workers of one thread each; None for one process, which renders by itself."""
    if processes == 1:
        yield None
        return
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
