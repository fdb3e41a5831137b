"""What a user can get wrong with data is answered in one sentence that names the file or key, before anything is trained."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile

import numpy as np
import pytest

from tests.data.items import prepare
from vstrain.data import loader
from vstrain.data.index import Index
from vstrain.data.problems import DataError
from vstrain.data.stream import Arrangement, Share


def tar(path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def none(folder, good):
    return "nothing-*.tar", "no shard matches this pattern"


def empty(folder, good):
    (folder / "empty.tar").touch()
    return "empty.tar", "empty.tar: is empty (zero bytes)"


def zipped(folder, good):
    (folder / "zipped.tar").write_bytes(gzip.compress(good.read_bytes()))
    return "zipped.tar", "zipped.tar: is compressed with gzip"


def escaping(folder, good):
    tar(folder / "escaping.tar", {"../../outside.png": b"x"})
    return "escaping.tar", "points outside of its folder"


def absolute(folder, good):
    tar(folder / "absolute.tar", {"/tmp/outside.png": b"x"})
    return "absolute.tar", "points outside of its folder"


def mixed(folder, good):
    members = {f"{n}.png": b"x" for n in range(9)} | {f"{n}.json": b"{}" for n in range(9)}
    tar(folder / "mixed-1.tar", members)
    shutil.copy(good, folder / "mixed-0.tar")
    return "mixed-*.tar", "9 of 18 samples lack the member depth.pco"


def no_tar(folder, good):
    (folder / "text.tar").write_text("hello " * 300)
    return "text.tar", "text.tar: is not a tar file"


def no_samples(folder, good):
    tar(folder / "bare.tar", {"README": b"nothing here"})
    return "bare.tar", "data.train.urls: the shards hold no sample"


CASES = [none, empty, zipped, escaping, absolute, mixed, no_tar, no_samples]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_bad_shards_are_answered_in_one_sentence(vstrain, tmp_path, depth_shards, case):
    url, sentence = case(tmp_path, depth_shards / "train-000000.tar")
    val = f"data.val.urls=[{depth_shards}/val-*.tar]"
    done = vstrain("experiment=toy", "data=shards", f"data.train.urls=[{tmp_path}/{url}]", val, code=2)
    lines = [line for line in done.stderr.splitlines() if line.startswith("vstrain")]
    assert len(lines) == 1 and sentence in lines[0], done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path.parent / "outside.png").exists()


def test_a_bucket_that_cannot_be_reached_is_named(vstrain, depth_shards):
    env = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    val = f"data.val.urls=[{depth_shards}/val-*.tar]"
    done = vstrain("experiment=toy", "data=shards", "data.train.urls=['s3://none/train-*.tar']", val, code=2, **env)
    assert "s3://none" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("weight", ["0", "-1"])
def test_a_weight_that_is_not_positive_is_answered_with_its_key(vstrain, depth_shards, weight):
    sources = f"data.train.sources=[{{urls:[{depth_shards}/train-*.tar],weight:{weight}}}]"
    done = vstrain("experiment=toy", "data=shards", sources, f"data.val.urls=[{depth_shards}/val-*.tar]", code=2)
    assert "data.train.sources.0.weight" in done.stderr and "greater than 0" in done.stderr


def test_urls_and_sources_together_are_refused(vstrain, toy_words, depth_shards):
    done = vstrain(*toy_words, f"+data.train.sources=[{{urls:[{depth_shards}/train-*.tar],weight:1}}]", code=2)
    assert "data.train has both urls and sources" in done.stderr


def test_more_ranks_than_samples_is_refused(tmp_path):
    tar(tmp_path / "two.tar", {"a.png": b"1", "b.png": b"2"})
    index = Index.open([str(tmp_path / "two.tar")])
    with pytest.raises(DataError, match="2 samples for 3 ranks"):
        loader.train_batches(
            [index], [1.0], prepare, Arrangement(0, 8), batch_size=3, accumulate=1, steps=1, share=Share(0, 3)
        )


def test_two_data_sets_train_by_weight(vstrain, depth_shards, tmp_path):
    """The whole way: sources in the configuration, a run that ends, and both fingerprints in its stamp."""
    import json

    one, two = f"{depth_shards}/train-000000.tar", f"{depth_shards}/train-00000[12].tar"
    sources = f"data.train.sources=[{{urls:['{one}'],weight:3}},{{urls:['{two}'],weight:1}}]"
    vstrain("experiment=toy", "data=shards", sources, f"data.val.urls=[{depth_shards}/val-*.tar]", "run.dir=run")
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert state["status"] == "finished"
    stamp = json.loads((tmp_path / "run" / "stamp.json").read_text())
    assert stamp["data"]["train"].count("-") == 1 and np.array(len(stamp["data"]["val"])) == 16
