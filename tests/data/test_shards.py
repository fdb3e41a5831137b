"""Writing, indexing and reading shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import webdataset

from vstrain.data import codecs, kinds
from vstrain.data.index import Index, sidecar
from vstrain.data.problems import DataError
from vstrain.data.reader import DamagedSample, Reader
from vstrain.data.storage import expand
from vstrain.data.writer import ShardWriter

RNG = np.random.default_rng(1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a.png", RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)),
        ("rgba_000.png", RNG.integers(0, 256, (9, 7, 4), dtype=np.uint8)),
        ("mask.png", RNG.integers(0, 2, (9, 7), dtype=np.uint8) * 255),
        ("depth.png", RNG.integers(0, 65536, (9, 7), dtype=np.uint16)),
        ("src.webp", RNG.integers(0, 256, (16, 12, 3), dtype=np.uint8)),
        ("depth.pco", RNG.random((9, 7), dtype=np.float32)),
        ("depth.pco", np.array([[np.nan, np.inf, -0.0]], np.float16)),
        ("x.npy", RNG.random((3, 2, 2))),
        ("json", {"b": [1, 2.5], "a": "ü"}),
        ("txt", "a red ball"),
    ],
)
def test_lossless_codecs_return_what_went_in(name, value):
    data = codecs.encode(name, value)
    back = codecs.decode(name, data)
    if isinstance(value, np.ndarray):
        assert back.dtype == value.dtype and back.shape == value.shape and back.tobytes() == value.tobytes()
    else:
        assert back == value
    assert codecs.encode(name, value) == data


def test_lossy_codecs_stay_close():
    smooth = np.stack([np.add.outer(np.arange(32), np.arange(48)) * 2 + shift for shift in (0, 20, 40)], -1).astype(
        np.uint8
    )
    assert np.abs(codecs.decode("jpg", codecs.encode("jpg", smooth)).astype(int) - smooth).max() <= 6
    video = np.stack([np.roll(smooth, n, 1) for n in range(5)])
    back = np.asarray(codecs.decode("mp4", codecs.encode("mp4", video, fps=12)))
    assert back.shape == video.shape and np.abs(back.astype(int) - video).mean() < 3


def test_an_unknown_extension_is_refused():
    with pytest.raises(ValueError, match="no codec"):
        codecs.encode("a.gif", np.zeros((2, 2)))


def test_anybodys_webdataset_reads_the_shards(depth_shards):
    urls = [str(path) for path in sorted(depth_shards.glob("train-*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"train{n:03d}" for n in range(22)]
    index = Index.open(expand(urls))
    for n in (0, 8, 9, 21):
        ours = Reader(index).read(n)
        assert (codecs.decode("png", samples[n]["png"]) == ours["png"]).all()
        assert (codecs.decode("depth.pco", samples[n]["depth.pco"]) == ours["depth.pco"]).all()


def test_the_saved_index_equals_a_rebuilt_one(depth_shards):
    shards = expand([f"{depth_shards}/train-*.tar"])
    saved, rebuilt = Index.open(shards), Index.build(shards)
    assert len(saved) == 22 and len(saved.shards) == 3
    for name in Index.ARRAYS:
        assert (saved.arrays[name] == rebuilt.arrays[name]).all(), name
    assert [saved.key(n) for n in range(22)] == [f"train{n:03d}" for n in range(22)]


def test_a_stale_index_is_rebuilt(tmp_path):
    def write(count: int):
        with ShardWriter(tmp_path, "train", "depth") as writer:
            for n in range(count):
                writer.write(sample(n))

    write(3)
    shards = expand([f"{tmp_path}/train-*.tar"])
    index = Path(sidecar(shards))
    old = index.read_bytes()
    before = Index.open(shards).fingerprint
    write(5)
    index.write_bytes(old)  # the index of the three samples beside a shard of five
    assert len(Index.open(shards)) == 5 and Index.open(shards).fingerprint != before
    index.unlink()
    assert len(Index.open(shards)) == 5 and index.is_file()


def sample(n: int, size: int = 8) -> dict:
    rng = np.random.default_rng(n)
    return {
        "__key__": f"s{n}",
        "png": rng.integers(0, 256, (size, size, 3), dtype=np.uint8),
        "depth.pco": rng.random((size, size), dtype=np.float32),
        "json": {"unit": "depth"},
    }


def test_the_same_samples_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        with ShardWriter(tmp_path / name, "train", "depth", max_count=4) as writer:
            for n in range(10):
                writer.write(sample(n))
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert sum(name.endswith(".tar") for name in files) == 3
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_a_failure_leaves_no_half_shard(tmp_path):
    with pytest.raises(RuntimeError, match="boom"), ShardWriter(tmp_path, "train", "depth", max_count=2) as writer:
        for n in range(3):
            writer.write(sample(n))
        raise RuntimeError("boom")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["train-000000.tar"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"__key__": "a.b"}, "without dots"),
        ({"depth.pco": None}, "member depth.pco is missing"),
        ({"png": None}, "member jpg is missing .kind .depth.; png or webp would do"),
        ({"extra": np.zeros(3)}, "'extra' does not belong"),
        ({"depth.pco": np.zeros((4, 4), np.float32)}, "differ in size"),
    ],
)
def test_the_writer_refuses_wrong_samples(tmp_path, change, sentence):
    wrong = {name: value for name, value in (sample(0) | change).items() if value is not None}
    with pytest.raises(kinds.SampleError, match=sentence), ShardWriter(tmp_path, "train", "depth") as writer:
        writer.write(wrong)


def test_the_writer_refuses_a_key_twice(tmp_path):
    with pytest.raises(kinds.SampleError, match="already written"), ShardWriter(tmp_path, "train", "depth") as writer:
        writer.write(sample(0))
        writer.write(sample(0))


@pytest.mark.parametrize(
    ("urls", "sentence"),
    [(["{folder}/none-*.tar"], "no shard matches"), (["{folder}/none.tar"], "no such shard"), ([], "empty")],
)
def test_missing_shards_are_named(tmp_path, urls, sentence):
    with pytest.raises(DataError, match=sentence):
        expand([url.replace("{folder}", str(tmp_path)) for url in urls])


def test_a_file_that_is_no_tar(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(b"not a tar file at all" * 100)
    with pytest.raises(DataError, match="x.tar: is not a tar file"):
        Index.open([str(path)])


def test_members_are_decoded_when_they_are_asked_for(tmp_path, monkeypatch):
    with ShardWriter(tmp_path, "train", "depth") as writer:
        writer.write(sample(0) | {"json": b"not json at all"})
    read = Reader(Index.open(expand([f"{tmp_path}/train-*.tar"]))).read(0)
    asked = []
    decode = codecs.decode
    monkeypatch.setattr(codecs, "decode", lambda name, data: asked.append(name) or decode(name, data))
    assert set(read) == {"__key__", "png", "depth.pco", "json"} and asked == [] and "webp" not in read
    assert read["png"] is read["png"] and asked == ["png"] and read["__key__"] == "s0"
    with pytest.raises(DamagedSample, match="s0: member json does not decode"):
        read["json"]
    with pytest.raises(KeyError):
        read["webp"]
