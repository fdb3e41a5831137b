"""What every loader in the benchmark has, and the two baselines: no loader at all, and a bare DataLoader."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from benchmarks.data import corpus as corpora
from benchmarks.data.functions import BATCH, FUNCTIONS, fill, slots
from benchmarks.data.measure import Job


class Peer:
    name = ""
    functions = ("images", "tuned_png", "usual")
    own_format = False  # what `build` makes holds the samples
    resumes = False  # has `state`, and `batches` reads job.load

    def build(self, job: Job, folder: Path) -> None:
        """Make the peer's own format of the corpus in `folder`."""

    def prepare(self, job: Job) -> None:
        """Import the library, build the format once, read all files so that they are in the page cache."""
        self.imports()
        self.shards = [str(path) for path in corpora.shards(Path(job.corpus), job.variant)]
        self.folder = Path(job.corpus) / self.name / job.variant
        if type(self).build is not Peer.build:
            corpora.once(self.folder, lambda folder: self.build(job, folder))
        for path in [*self.folder.rglob("*"), *([] if self.own_format else map(Path, self.shards))]:
            if path.is_file():
                with path.open("rb", buffering=0) as file:
                    while file.read(1 << 24):
                        pass

    def imports(self) -> None:
        """Of the peer's library; raises where it is not installed."""

    def batches(self, job: Job) -> Iterator:
        raise NotImplementedError

    def state(self) -> bytes:
        return pickle.dumps(self.loader.state_dict())


class Apply:
    """The function of the job on a peer's sample; `key`, `names`: where the peer keeps them."""

    def __init__(self, job: Job, key: str = "__key__", dot: str = ""):
        self.function, self.key, self.dot = FUNCTIONS[job.function], key, dot
        self.names = ("jpg",) if job.variant == "images" else ("jpg", "png")

    def __call__(self, sample: dict) -> dict:
        values = {name: sample[self.dot + name] for name in self.names}
        values = {name: value if isinstance(value, bytes) else value.read() for name, value in values.items()}
        return self.function({"key": int(sample[self.key]), **values})


def torch_loader(dataset, job: Job, kind=None, **options):
    """A DataLoader as everybody makes it."""
    if kind is None:
        from torch.utils.data import DataLoader as kind  # noqa: N813
    return kind(
        dataset,
        batch_size=BATCH,
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
        drop_last=True,
        **options,
    )


def endless(loader) -> Iterator:
    while True:
        yield from loader


class Bare(Peer):
    """No loader: the function on bytes in memory, into one kept batch."""

    name = "bare function"
    functions = tuple(FUNCTIONS)

    def batches(self, job: Job) -> Iterator:
        samples = list(islice(corpora.read(Path(job.corpus), job.variant), 96))
        if job.function == "tuned_pco":
            from vstrain.data import codecs

            for sample in samples:
                sample["depth.pco"] = codecs.encode("depth.pco", codecs.decode("png", sample.pop("png")))
        out = slots(job.function)
        while True:
            for at in range(0, len(samples) - BATCH + 1, BATCH):
                fill(job.function, samples[at : at + BATCH], out)
                yield out


class TorchHandOver(Peer):
    """Ready-made rows of image and depth through a DataLoader, collated in the worker."""

    name = "DataLoader hand-over"

    def batches(self, job: Job) -> Iterator:
        return endless(torch_loader(Ready(), job))


class Ready:
    row = {name: array[0] for name, array in slots("tuned_png", 1).items()}

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, at: int) -> dict:
        return self.row
