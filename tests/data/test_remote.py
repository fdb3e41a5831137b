"""Training data in an object store: the same batches as from the disk, few bytes, and no fault of the network shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import until
from tests.data.items import prepare
from tests.data.s3server import Fault
from vstrain.data import loader
from vstrain.data.cache import Cache
from vstrain.data.index import Index
from vstrain.data.loader import Means
from vstrain.data.problems import DataError
from vstrain.data.reader import Reader
from vstrain.data.storage import Storage, expand
from vstrain.data.stream import Arrangement
from vstrain.data.writer import ShardWriter


@pytest.fixture(scope="module")
def bucket(s3_server, depth_shards):
    s3_server.put("/train")
    for path in depth_shards.glob("train-*"):
        s3_server.put(f"/train/ds/{path.name}", path.read_bytes())
    return s3_server


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


URLS = ["s3://train/ds/train-*.tar"]


def rows(index: Index, *, start: int = 0, steps: int = 6, workers: int = 0, storage: Storage | None = None) -> list:
    batches = loader.train_batches(
        [index],
        [1.0],
        prepare,
        Arrangement(0, 8),
        batch_size=4,
        accumulate=1,
        steps=steps,
        start=start,
        means=Means(workers=workers, storage=storage, max_damaged=0.0),
    )
    return [
        (name, draw, bytes(image.numpy()))
        for batch in batches
        for name, draw, image in zip(batch["name"], batch["draw"].tolist(), batch["image"], strict=True)
    ]


@pytest.fixture(scope="module")
def local(depth_shards) -> Index:
    return Index.open(expand([f"{depth_shards}/train-*.tar"]))


def test_the_same_batches_as_from_the_disk(bucket, local):
    bucket.calm()
    remote = Index.open(expand(URLS))
    assert remote.fingerprint == local.fingerprint and remote.shards[0] == "s3://train/ds/train-000000.tar"
    for workers in (0, 2):
        assert rows(remote, workers=workers) == rows(local)
    assert rows(remote, start=8, steps=4, workers=1) == rows(local)[8:]


def test_an_index_beside_the_shards_saves_reading_them(bucket, local, depth_shards, tmp_path):
    from vstrain.data.index import sidecar

    bucket.calm()
    shards = expand(URLS)
    bucket.put("/" + sidecar(shards).removeprefix("s3://"), Path(sidecar(local.shards)).read_bytes())
    bucket.calm()
    index = Index.open(shards)
    assert index.fingerprint == local.fingerprint
    assert not [path for method, path, _ in bucket.requests if method == "GET" and path.endswith(".tar")]


def test_the_first_batch_from_the_middle_moves_little(bucket, tmp_path):
    """Byte ranges of the members that `prepare` uses, and nothing else, once it is known which these are."""
    rng = np.random.default_rng(0)
    with ShardWriter(tmp_path, "big", "depth") as writer:
        for n in range(24):
            image = rng.integers(0, 256, (150, 150, 3), dtype=np.uint8)
            writer.write({"__key__": f"{n}", "png": image, "depth.pco": image[..., 0] / np.float32(7), "json": {}})
    (path,) = tmp_path.glob("big-*.tar")
    bucket.put(f"/train/{path.name}", path.read_bytes())
    index = Index.open([f"s3://train/{path.name}"])
    reader = Reader(index, Storage())
    assert reader.read(0)["png"].shape == (150, 150, 3)
    wanted = [13, 7, 20, 14]
    needed = sum(index.members(n)["png"][1] for n in wanted)
    bucket.calm()
    reader.fetch_ahead(wanted)
    for n in wanted:
        reader.read(n).raw("png")
    assert needed <= bucket.sent <= 1.2 * needed
    assert all(span for _, _, span in bucket.requests)


@pytest.mark.parametrize("kind", ["reset", "truncate", "slowdown"])
def test_faults_of_the_network_do_not_show(bucket, local, kind):
    bucket.calm()
    index = Index.open(expand(URLS))
    bucket.faults.append(Fault(kind, times=3))
    assert rows(index, storage=Storage(retries=5)) == rows(local)
    assert not any(fault.times for fault in bucket.faults)


def test_an_outage_ends_the_run_and_is_not_taken_for_damage(bucket, tmp_path):
    bucket.calm()
    index = Index.open(expand(URLS))
    bucket.fail("slowdown")
    ledger = tmp_path / "quarantine.jsonl"
    means = Means(storage=Storage(retries=1), ledger=ledger, max_damaged=1.0)
    batches = loader.train_batches(
        [index], [1.0], prepare, Arrangement(0, 8), batch_size=4, accumulate=1, steps=2, means=means
    )
    with pytest.raises(DataError, match=r"s3://train/ds/.*2 attempts.*an outage is not taken for damaged samples"):
        list(batches)
    bucket.calm()
    assert not ledger.exists()


def test_an_object_that_is_gone_is_named(bucket, depth_shards):
    bucket.calm()
    index = Index.open(expand(URLS))
    index.shards[1] = "s3://train/ds/none.tar"
    with pytest.raises(DataError, match="s3://train/ds/none.tar: sample .* cannot be read"):
        rows(index, steps=12)


def test_the_cache_fills_behind_and_then_nothing_moves(bucket, local, tmp_path):
    bucket.calm()
    index, cache = Index.open(expand(URLS)), Cache(tmp_path / "cache", 10**8)
    assert rows(index, storage=Storage(cache), steps=12)
    until(lambda: all(cache.path(url) for url in index.shards))
    bucket.calm()
    assert rows(index, storage=Storage(cache), workers=1) == rows(local)
    assert bucket.sent == 0


def test_a_bad_copy_is_dropped_and_read_again(bucket, local, tmp_path):
    bucket.calm()
    index, cache = Index.open(expand(URLS)), Cache(tmp_path / "cache", 10**8)
    for url in index.shards:
        size = index.sizes[index.shards.index(url)]
        cache.fetch(url, lambda file, size=size: file.write(bytes(size)), size)
    assert rows(index, storage=Storage(cache)) == rows(local)
