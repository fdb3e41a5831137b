"""Our loader in the benchmark: everything that depends on its interface is in this file.

Workers import this module: nothing here may import torch at its top.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.data import corpus as corpora
from benchmarks.data.functions import BATCH, SIZE, put_depth, put_image
from benchmarks.data.measure import Job
from benchmarks.data.peer import Peer

STEPS = 1_000_000  # more than any measurement takes


def prepare_images(sample, rng: np.random.Generator) -> dict:
    from vstrain.data.reader import empty

    slot = empty(sample, "image", (SIZE, SIZE, 3), np.uint8)
    return {"image": put_image(sample["jpg"], int(sample["__key__"]), slot)}


def prepare_depth(sample, rng: np.random.Generator) -> dict:
    from vstrain.data.reader import empty

    slot = empty(sample, "depth", (SIZE, SIZE), np.uint16)
    return {**prepare_images(sample, rng), "depth": put_depth(sample["depth.pco"], int(sample["__key__"]), slot)}


def prepare_ready(sample, rng: np.random.Generator) -> dict:
    """Ready-made rows: what remains is reading a few bytes and the hand-over."""
    return {"image": READY[0], "depth": READY[1]}


READY = (np.zeros((SIZE, SIZE, 3), np.uint8), np.zeros((SIZE, SIZE), np.uint16))


def open_loader(shards: list, prepare, workers: int, position: int = 0) -> Iterator[dict]:
    """Endless batches from global sample `position` (a multiple of the batch) on."""
    from vstrain.data.loader import Arrangement, Means, open_index, train_batches

    index = open_index([str(path) for path in shards], "benchmark")
    loader = train_batches(
        [index],
        [1.0],
        prepare,
        Arrangement(seed=0, block=512),
        batch_size=BATCH,
        accumulate=1,
        steps=STEPS,
        start=position,
        means=Means(workers=workers),
    )
    return iter(loader)


class Ours(Peer):
    """Pictures: the very tar shards that webdataset reads. Depth: written by our writer, pcodec instead of PNG."""

    name = "vstrain"
    functions = ("images", "tuned_pco")
    resumes = True

    def imports(self) -> None:
        import vstrain.data.loader  # noqa: F401

    def build(self, job: Job, folder: Path) -> None:
        from vstrain.data import codecs
        from vstrain.data.writer import ShardWriter

        if job.variant == "images":
            return
        count = -(-int(Path(job.corpus).name.split("-")[1]) // corpora.SHARDS)
        with ShardWriter(folder, "train", "depth", max_count=count) as writer:
            for sample in corpora.read(Path(job.corpus), "depth"):
                depth = codecs.decode("png", sample["png"])
                members = {"jpg": sample["jpg"], "depth.pco": depth, "json": sample["json"]}
                writer.write({"__key__": f"{sample['key']:06d}", **members})

    def prepare(self, job: Job) -> None:
        """The index is made here when it is missing or of an older format, not on the clock."""
        from vstrain.data.loader import open_index

        super().prepare(job)
        own = sorted(map(str, self.folder.glob("*.tar")))
        self.tars = self.shards if job.variant == "images" else own
        open_index(self.tars, "benchmark")

    def batches(self, job: Job) -> Iterator:
        position = pickle.loads(Path(job.load).read_bytes()) if job.load else job.position
        self.position = position + BATCH * (max(job.warm, 1) + job.batches)
        prepare = prepare_images if job.variant == "images" else prepare_depth
        return open_loader(self.tars, prepare, job.workers, position)

    def state(self) -> bytes:
        return pickle.dumps(self.position)


class HandOver(Peer):
    """Ready-made batches through our loader: tiny samples in the shards, constant rows from `prepare`."""

    name = "vstrain hand-over"

    def build(self, job: Job, folder: Path) -> None:
        import webdataset

        with webdataset.TarWriter(str(folder / "tiny-000000.tar"), encoder=False, mtime=0) as writer:
            for n in range(4096):
                writer.write({"__key__": f"{n:06d}", "json": b"{}"})

    def batches(self, job: Job) -> Iterator:
        return open_loader([self.folder / "tiny-000000.tar"], prepare_ready, job.workers)


def plan_cost() -> dict:
    """Cost of the order of 15 million samples in 15,000 shards over 4,096 ranks x 8 workers, for one process of them:
    microseconds a sample in batches of 8 and for a global batch at once, seconds until the first batch is known,
    samples by which ranks differ in a step, private MB."""
    import resource
    import time

    from vstrain.data.order import Order
    from vstrain.data.stream import Share, TrainPlan

    ranks, batch, steps = 4096, 32_768, 2000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.process_time()
    order = Order(np.full(15_000, 1000), seed=0, block=8192, lanes=512, chunk=64)
    plan = TrainPlan(batch, 1, Share(1234, ranks), start=7_000_000 // batch * batch, steps=steps)
    order.samples_at(plan[0])
    start_s = time.process_time() - begun
    begun = time.process_time()
    for step in range(steps):
        order.samples_at(plan[step])
    spent = time.process_time() - begun
    begun = time.process_time()
    order.samples_at(np.arange(10 * batch, 11 * batch))
    together = time.process_time() - begun
    sizes = [len(TrainPlan(batch, 1, Share(rank, ranks), 0, 1)[0]) for rank in range(ranks)]
    return {
        "us_per_sample": 1e6 * spent / (steps * plan.local),
        "us_together": 1e6 * together / batch,
        "start_s": start_s,
        "imbalance": max(sizes) - min(sizes),
        "private_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }
