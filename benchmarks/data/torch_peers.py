"""The peers that hand batches over through torch's DataLoader, each as its own documentation uses it.

Given to each: an order of shards only, without a buffer of samples to shuffle (cheaper than in training), the DataLoader's
default sharing, workers that stay alive.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

from benchmarks.data import corpus as corpora
from benchmarks.data.functions import BATCH
from benchmarks.data.measure import Job
from benchmarks.data.peer import Apply, Peer, endless, torch_loader


class WebDataset(Peer):
    name = "webdataset"

    def imports(self) -> None:
        import webdataset  # noqa: F401

    def batches(self, job: Job) -> Iterator:
        import webdataset

        data = webdataset.WebDataset(self.shards, shardshuffle=len(self.shards), seed=0).repeat().map(Apply(job))
        return iter(torch_loader(data, job))


class WebDatasetStateful(WebDataset):
    """`detshuffle`, because with `shuffle` a resumed run sees other batches."""

    name = "webdataset + StatefulDataLoader"
    resumes = True

    def batches(self, job: Job) -> Iterator:
        import webdataset
        from torchdata.stateful_dataloader import StatefulDataLoader

        data = webdataset.WebDataset(self.shards, shardshuffle=len(self.shards), detshuffle=True, seed=0)
        data = data.compose(webdataset.detshuffle(100, 50, seed=0)).map(Apply(job))
        self.loader = torch_loader(data, job, StatefulDataLoader)
        if job.load:
            self.loader.load_state_dict(pickle.loads(Path(job.load).read_bytes()))
        return endless(self.loader)


class Wids(Peer):
    name = "wids"

    def imports(self) -> None:
        import wids  # noqa: F401

    def build(self, job: Job, folder: Path) -> None:
        command = [sys.executable, "-c", "from wids.wids_index import main; main()", "create", *self.shards]
        subprocess.run([*command, "--output", str(folder / "index.json")], check=True, capture_output=True)

    def batches(self, job: Job) -> Iterator:
        import wids

        listed = json.loads((self.folder / "index.json").read_text())["shardlist"]
        home = str(Path(self.shards[0]).parent)
        data = wids.ShardListDataset(
            listed, cache_dir=home, lru_size=len(listed), transformations=[Apply(job, dot=".")], keep=True
        )
        sampler = wids.ChunkedSampler(data, chunksize=500, shuffle=True, shufflefirst=True)
        return endless(torch_loader(data, job, sampler=sampler))


class LitData(Peer):
    name = "litdata"
    own_format = True
    resumes = True

    def imports(self) -> None:
        import litdata  # noqa: F401

    def build(self, job: Job, folder: Path) -> None:
        from litdata.streaming.writer import BinaryWriter

        writer = BinaryWriter(str(folder), chunk_bytes="64MB")
        names = corpora.VARIANTS[job.variant][:-1]
        for number, sample in enumerate(corpora.read(Path(job.corpus), job.variant)):
            writer.add_item(number, {"key": sample["key"], **{name: sample[name] for name in names}})
        writer.done()
        writer.merge()

    def batches(self, job: Job) -> Iterator:
        from litdata import StreamingDataLoader, StreamingDataset

        data = StreamingDataset(str(self.folder), shuffle=True, transform=Apply(job, "key"))
        self.loader = torch_loader(data, job, StreamingDataLoader)
        if job.load:
            self.loader.load_state_dict(pickle.loads(Path(job.load).read_bytes()))
        return endless(self.loader)


class Mosaic(Peer):
    name = "mosaicml-streaming"
    own_format = True
    resumes = True

    def imports(self) -> None:
        try:
            import torchvision  # noqa: F401
        except (
            ImportError,
            RuntimeError,
        ):  # streaming names it at its top, for picture data sets that are not used here
            for module in ("", ".datasets", ".transforms", ".transforms.functional"):
                stub = types.ModuleType("torchvision" + module)
                stub.__spec__ = ModuleSpec(stub.__name__, None)
                stub.VisionDataset, stub.to_tensor = object, None
                sys.modules[stub.__name__] = stub
        import streaming

        streaming.base.util.clean_stale_shared_memory()

    def build(self, job: Job, folder: Path) -> None:
        from streaming import MDSWriter

        names = corpora.VARIANTS[job.variant][:-1]
        columns = {"key": "int", **dict.fromkeys(names, "bytes")}
        with MDSWriter(out=str(folder / "mds"), columns=columns) as writer:
            for sample in corpora.read(Path(job.corpus), job.variant):
                writer.write({name: sample[name] for name in columns})

    def batches(self, job: Job) -> Iterator:
        from streaming import StreamingDataLoader, StreamingDataset

        apply = Apply(job, "key")

        class Data(StreamingDataset):
            def __getitem__(self, at):
                return apply(super().__getitem__(at))

        data = Data(local=str(self.folder / "mds"), shuffle=True, batch_size=BATCH)
        self.loader = torch_loader(data, job, StreamingDataLoader)
        if job.load:
            self.loader.load_state_dict(pickle.loads(Path(job.load).read_bytes()))
        return endless(self.loader)


class Energon(Peer):
    name = "megatron-energon"
    own_format = True

    def imports(self) -> None:
        import megatron.energon  # noqa: F401

    def build(self, job: Job, folder: Path) -> None:
        for shard in self.shards:
            os.link(shard, folder / Path(shard).name)
        command = [sys.executable, "-c", "from megatron.energon.cli.main import main; main()", "prepare", str(folder)]
        options = ["--non-interactive", "--split-ratio", "1,0,0", "--sample-type", "CrudeWebdataset", "--no-progress"]
        subprocess.run([*command, *options, "--num-workers", "2"], check=True, capture_output=True)

    def batches(self, job: Job) -> Iterator:
        from megatron import energon

        apply = Apply(job)

        @energon.stateless
        def cook(sample: dict) -> dict:
            return {"__key__": sample["__key__"], "__restore_key__": (), **apply(sample)}

        class Encoder(energon.DefaultTaskEncoder):
            cookers = (energon.Cooker(cook),)
            decoder = None

            @energon.stateless
            def batch(self, samples):
                from torch.utils.data import default_collate

                names = set(samples[0]) & {"image", "depth"}
                return default_collate([{name: sample[name] for name in names} for sample in samples])

        data = energon.get_train_dataset(
            self.folder,
            worker_config=energon.WorkerConfig(rank=0, world_size=1, num_workers=job.workers),
            batch_size=BATCH,
            shuffle_buffer_size=None,
            max_samples_per_sequence=100,
            task_encoder=Encoder(),
        )
        return iter(energon.get_loader(data))


class HuggingFace(Peer):
    name = "datasets"

    def imports(self) -> None:
        import datasets  # noqa: F401

    def batches(self, job: Job) -> Iterator:
        import datasets

        home = Path(job.corpus) / "huggingface"
        data = datasets.load_dataset(
            "webdataset", data_files={"train": self.shards}, split="train", streaming=True, cache_dir=str(home)
        )
        data = data.decode(False) if hasattr(data, "decode") else data
        apply = Apply(job)

        def transform(sample: dict) -> dict:
            return apply({**sample, **{name: sample[name]["bytes"] for name in apply.names}})

        data = data.map(transform, remove_columns=data.column_names)
        return endless(torch_loader(data, job))
