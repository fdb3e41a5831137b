"""All peers by name, and those that bring their own threads instead of torch's DataLoader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.data import corpus as corpora
from benchmarks.data.functions import BATCH, SIZE
from benchmarks.data.measure import Job
from benchmarks.data.peer import Apply, Bare, Peer, TorchHandOver, endless
from benchmarks.data.torch_peers import Energon, HuggingFace, LitData, Mosaic, WebDataset, WebDatasetStateful, Wids


class Spdl(Peer):
    """Threads instead of worker processes; its own tar reader."""

    name = "spdl"

    def imports(self) -> None:
        import spdl.io
        import spdl.pipeline  # noqa: F401

    def samples(self) -> Iterator[dict]:
        import spdl.io

        while True:
            for shard in np.random.default_rng(0).permutation(self.shards):
                sample: dict = {}
                with Path(shard).open("rb") as file:
                    for path, data in spdl.io.iter_tarfile(file):
                        key, name = Path(path).name.split(".", 1)
                        if sample and sample["__key__"] != key:
                            yield sample
                            sample = {}
                        sample["__key__"] = key
                        sample[name] = bytes(data)
                yield sample

    def batches(self, job: Job) -> Iterator:
        from spdl.pipeline import PipelineBuilder

        def stack(samples: list[dict]) -> dict:
            return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}

        builder = PipelineBuilder().add_source(self.samples()).pipe(Apply(job), concurrency=job.workers)
        pipeline = builder.aggregate(BATCH).pipe(stack).add_sink(4).build(num_threads=job.workers)
        with pipeline.auto_stop():
            yield from pipeline


class Dali(Peer):
    """On the CPU, with its own decoders and resize."""

    name = "nvidia-dali (CPU)"
    functions = ("images", "tuned_png")

    def imports(self) -> None:
        import nvidia.dali  # noqa: F401

    def build(self, job: Job, folder: Path) -> None:
        for shard in self.shards:
            _dali_index(Path(shard), folder / (Path(shard).stem + ".idx"))

    def batches(self, job: Job) -> Iterator:
        from nvidia.dali import fn, pipeline_def, types

        names = ["jpg"] if job.variant == "images" else ["jpg", "png"]
        indices = [str(self.folder / (Path(shard).stem + ".idx")) for shard in self.shards]

        @pipeline_def(batch_size=BATCH, num_threads=job.workers, device_id=None, seed=0)
        def pipeline():
            files = fn.readers.webdataset(paths=self.shards, index_paths=indices, ext=names, name="reader")
            files = [files] if len(names) == 1 else files
            place = fn.random.uniform(range=(0.0, 1.0))
            image = fn.decoders.image(files[0], device="cpu", output_type=types.RGB)
            image = fn.resize(image, resize_shorter=SIZE, interp_type=types.INTERP_LINEAR, antialias=False)
            results = [fn.crop(image, crop=(SIZE, SIZE), crop_pos_x=place)]
            if len(names) == 2:
                depth = fn.decoders.image(files[1], device="cpu", output_type=types.ANY_DATA, dtype=types.UINT16)
                depth = fn.resize(depth, resize_shorter=SIZE, interp_type=types.INTERP_NN)
                results.append(fn.crop(depth, crop=(SIZE, SIZE), crop_pos_x=place))
            return tuple(results)

        running = pipeline()
        running.build()
        while True:
            yield [output.as_array() for output in running.run()]


def _dali_index(shard: Path, target: Path) -> None:
    """The text index of its webdataset reader: a line a sample, `extension offset size name` for each member."""
    import tarfile

    rows: dict[str, list[str]] = {}
    with tarfile.open(shard) as tar:
        for member in tar:
            stem, name = member.name.split(".", 1)
            rows.setdefault(stem, []).append(f"{name} {member.offset_data} {member.size} {member.name}")
    lines = [f"v1.2 {len(rows)}", *(" ".join(members) for members in rows.values())]
    target.write_text("\n".join(lines) + "\n")


class Ffcv(Peer):
    """Its own format (pictures encoded again by its writer, at the same quality), decoder and resize (by area); no depth."""

    name = "ffcv"
    own_format = True
    functions = ("images",)

    def imports(self) -> None:
        import ffcv  # noqa: F401

    def build(self, job: Job, folder: Path) -> None:
        from ffcv.fields import RGBImageField
        from ffcv.writer import DatasetWriter
        from simplejpeg import decode_jpeg

        pictures = [(decode_jpeg(s["jpg"], colorspace="RGB"),) for s in corpora.read(Path(job.corpus), job.variant)]
        fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=90)}
        DatasetWriter(str(folder / "data.beton"), fields, num_workers=1).from_indexed_dataset(pictures)

    def batches(self, job: Job) -> Iterator:
        from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
        from ffcv.loader import Loader, OrderOption
        from ffcv.transforms import ToTensor

        decoder = CenterCropRGBImageDecoder((SIZE, SIZE), ratio=1)
        loader = Loader(
            str(self.folder / "data.beton"),
            batch_size=BATCH,
            num_workers=job.workers,
            order=OrderOption.QUASI_RANDOM,
            pipelines={"image": [decoder, ToTensor()]},
            drop_last=True,
        )
        return endless(loader)


PEERS = {
    peer.name: peer
    for peer in (WebDataset, Wids, LitData, Mosaic, Energon, HuggingFace, Spdl, Dali, Ffcv)
}  # fmt: skip


def all_peers() -> dict[str, type[Peer]]:
    from benchmarks.data.ours import HandOver, Ours

    return {
        Ours.name: Ours,
        **PEERS,
        **{peer.name: peer for peer in (Bare, WebDatasetStateful, TorchHandOver, HandOver)},
    }
