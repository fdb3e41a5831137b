"""Batches: the same on any number of ranks and workers and after any restart; damage noted, replaced, and bounded."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import until
from tests.data.items import dies, fails, hangs, placed, prepare, refused, refuses_some, shaped
from vstrain.data import keyed, loader
from vstrain.data.buckets import Bucket
from vstrain.data.index import Index
from vstrain.data.loader import Means
from vstrain.data.problems import DataError
from vstrain.data.quarantine import Quarantine
from vstrain.data.storage import expand
from vstrain.data.stream import Arrangement, Share

ARRANGEMENT = Arrangement(seed=0, block=8)


def indices(folder, *patterns: str) -> list[Index]:
    return [Index.open(expand([f"{folder}/{pattern}"])) for pattern in patterns or ("train-*.tar",)]


def batches(found, *, prepare=prepare, weights=None, arrangement=ARRANGEMENT, rank=0, world=1, batch=4, **more):
    means = {name: more.pop(name) for name in ("workers", "ahead", "timeout", "ledger", "max_damaged") if name in more}
    plan = {"accumulate": 1, "steps": 9, "start": 0} | more
    return loader.train_batches(
        found,
        weights or [1.0] * len(found),
        prepare,
        arrangement,
        batch_size=batch,
        share=Share(rank, world),
        means=Means(**means),
        **plan,
    )


def stream(found, *, world=1, **more) -> list[tuple]:
    """(name, draw, key, pixels) of every position, in global order, put together from all ranks."""
    ranks = [list(batches(found, rank=rank, world=world, **more)) for rank in range(world)]
    out = []
    for micro in zip(*ranks, strict=True):
        for part in micro:
            pixels = [hash(image.numpy().tobytes()) for image in part["image"]]
            out += zip(part["name"], part["draw"].tolist(), part["key"].tolist(), pixels, strict=True)
    return out


OTHERS = [
    dict(world=2),
    dict(world=4),
    dict(workers=2),
    dict(accumulate=2),
    dict(world=2, accumulate=2, workers=1),
    dict(world=3, batch=12, steps=3, workers=1),
]


@pytest.fixture(scope="module")
def found(depth_shards) -> list[Index]:
    return indices(depth_shards)


@pytest.fixture(scope="module")
def whole(found) -> list[tuple]:
    return stream(found)


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_ranks_workers_and_micro_batches_play_no_part(found, whole, other):
    assert len(whole) == 36 and len({name for name, *_ in whole[:22]}) == 22
    assert stream(found, **other) == whole


@pytest.mark.parametrize("arrangement", ["plain", "lanes", "mixed", "buckets"])
def test_any_chain_of_restarts_is_the_uninterrupted_run(depth_shards, arrangement):
    """Stop after any step and go on with other ranks, workers and micro-batches, mid-epoch and mid-shard."""
    files = ("train-000000.tar", "train-00000[12].tar") if arrangement in ("mixed", "buckets") else ("train-*.tar",)
    found, more = indices(depth_shards, *files), {"batch": 12}
    if len(found) > 1:
        more["weights"] = [1.0, 2.0]
    if arrangement == "lanes":
        more["arrangement"] = Arrangement(seed=0, block=8, lanes=4, chunk=3)
    if arrangement == "buckets":
        more |= {"prepare": shaped, "arrangement": Arrangement(0, 8, buckets=(Bucket(4, 4), Bucket(4, 8)), window=3)}
    uninterrupted = stream(found, steps=12, **more)
    rng = np.random.default_rng(7)
    for _ in range(3):
        joined, step = [], 0
        while step < 12:
            steps = min(int(rng.integers(1, 6)), 12 - step)
            world, accumulate = int(rng.choice([1, 2, 3, 4])), int(rng.choice([1, 3]))
            joined += stream(
                found,
                steps=steps,
                start=12 * step,
                world=world,
                accumulate=accumulate if world != 3 else 1,
                workers=int(rng.choice([0, 0, 1, 2])),
                **more,
            )
            step += steps
        assert joined == uninterrupted


@given(st.integers(0, 60), st.sampled_from([1, 2, 3, 6]))
@settings(max_examples=25, deadline=None)
def test_a_restart_goes_on_at_the_exact_sample(found, start, batch):
    start *= batch
    assert stream(found, start=start, batch=batch, steps=2) == stream(found, batch=1, steps=start + 2 * batch)[start:]


def test_another_seed_is_another_order_and_other_draws(found, whole):
    other = stream(found, arrangement=Arrangement(1, 8))
    assert [x[0] for x in whole] != [x[0] for x in other] and not {x[2] for x in whole} & {x[2] for x in other}


def test_draws_differ_between_epochs(found):
    draws = {}
    for name, draw, *_ in stream(found, steps=11):
        draws.setdefault(name, set()).add(draw)
    assert all(len(values) == 2 for values in draws.values())


def test_one_bucket_a_step_on_all_ranks(tmp_path):
    from vstrain.data.writer import ShardWriter

    rng = np.random.default_rng(0)
    with ShardWriter(tmp_path, "train", "depth", max_count=9) as writer:
        for n in range(40):
            h, w = ((8, 8), (8, 16), (16, 8))[n % 3]
            image = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
            writer.write({"__key__": f"{n}", "png": image, "depth.pco": image[..., 0] / np.float32(9), "json": {}})
    (index,) = indices(tmp_path)
    assert {(int(w), int(h)) for w, h in zip(index.width, index.height, strict=True)} == {(8, 8), (16, 8), (8, 16)}
    shapes = (Bucket(4, 4), Bucket(4, 8), Bucket(8, 4))
    arrangement = Arrangement(0, 8, buckets=shapes, window=20)
    settings = {"prepare": shaped, "arrangement": arrangement, "steps": 20, "world": 2}
    ranks = [
        [
            tuple(b["image"].shape[1:3])
            for b in batches([index], prepare=shaped, arrangement=arrangement, steps=20, rank=r, world=2)
        ]
        for r in range(2)
    ]
    assert ranks[0] == ranks[1] and set(ranks[0]) == {(4, 4), (4, 8), (8, 4)}
    fitting = sum(
        int(index.height[n]) * w == int(index.width[n]) * h
        for rank in range(2)
        for b in batches([index], rank=rank, **settings)
        for n, (h, w) in (
            (next(m for m in range(40) if index.key(m) == name), b["image"].shape[1:3]) for name in b["name"]
        )
    )
    assert fitting >= 80 - 2 * 4  # at most two batches of left-overs in a window of twenty


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 3, 4, 16])
def test_validation_counts_every_sample_once_on_even_ranks(depth_shards, world, batch):
    (index,) = indices(depth_shards, "val-*.tar")
    counts, lengths = {}, set()
    for rank in range(world):
        part = list(
            loader.val_batches(index, prepare, seed=0, samples=None, batch_size=batch, share=Share(rank, world))
        )
        lengths.add(len(part))
        for b in part:
            for name, weight in zip(b["name"], b["weight"].tolist(), strict=True):
                counts[name] = counts.get(name, 0) + weight
    assert counts == {f"val{n:03d}": 1.0 for n in range(7)} and len(lengths) == 1


def test_a_batch_that_does_not_divide_is_refused(found):
    with pytest.raises(DataError, match="multiple of"):
        stream(found, world=3)


# ---- damage ------------------------------------------------------------------------------------------------------------


def copied(depth_shards, folder) -> list[Index]:
    for path in depth_shards.glob("train-*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return indices(folder)


def scratch(index: Index, n: int) -> None:
    offset, size, _ = index.members(n)["png"]
    with Path(index.shards[int(index.shard[n])]).open("r+b") as file:
        file.seek(offset + size // 2)
        file.write(b"\x00\xff\x00\xff")


def rows(ledger: Path) -> list[dict]:
    return [json.loads(line) for line in ledger.read_text().splitlines()]


def test_a_damaged_sample_is_noted_once_and_replaced_on_every_rank_alike(tmp_path, depth_shards, found):
    (index,) = copied(depth_shards, tmp_path)
    scratch(index, 4)
    ledger, allowed = tmp_path / "quarantine.jsonl", {"steps": 11, "max_damaged": 0.1}
    hurt = stream([index], ledger=ledger, **allowed)
    names = [name for name, *_ in hurt]
    assert len(hurt) == 44 and "train004" not in names
    (line,) = rows(ledger)
    assert line["key"] == "train004" and line["shard"].endswith("train-000000.tar") and line["count"] == 1
    for other in (dict(world=2), dict(world=4, workers=1), dict(workers=2, accumulate=2)):
        assert stream([index], ledger=ledger, **allowed, **other) == hurt
    assert len(rows(ledger)) == 1
    healthy = stream(found, steps=11)
    changed = [n for n, row in enumerate(healthy) if row != hurt[n]]
    assert changed == [n for n, (name, *_) in enumerate(healthy) if name == "train004"]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_prepare_refuses_and_what_it_makes_wrongly_is_damage(found, tmp_path, workers):
    ledger = tmp_path / "q.jsonl"
    out = stream(found, prepare=refuses_some, workers=workers, ledger=ledger, max_damaged=0.2)
    assert not {"train003", "train005", "train007"} & {name for name, *_ in out} and len(out) == 36
    reasons = {row["key"]: row["reason"] for row in rows(ledger)}
    assert reasons["train003"] == "sample train003: no valid pixel"
    assert reasons["train005"] == "its draw holds numbers that are not finite"
    assert reasons["train007"] == "its image is uint8 (9, 16, 3), that of the others is uint8 (16, 16, 3)"


def test_what_the_index_could_not_read_is_in_the_ledger(tmp_path, depth_shards):
    (index,) = copied(depth_shards, tmp_path)
    offset = index.members(12)["depth.pco"][0] - 512
    with Path(index.shards[1]).open("r+b") as file:
        file.seek(offset)
        file.write(bytes(512))
    index = Index.build(index.shards)
    out = stream([index], ledger=tmp_path / "q.jsonl", max_damaged=0.1)
    assert "train012" in {name for name, *_ in out}  # the picture is all that this `prepare` asks for
    (line,) = rows(tmp_path / "q.jsonl")
    assert line["key"] == f"at byte {offset}" and line["reason"].startswith("a damaged header")
    with pytest.raises(DataError, match="more than the 0 that data.max_damaged allows"):
        stream([index], ledger=tmp_path / "q2.jsonl", max_damaged=0.01)


def test_more_damage_than_allowed_ends_the_run(tmp_path, depth_shards):
    (index,) = copied(depth_shards, tmp_path)
    for n in (2, 4, 6):
        scratch(index, n)
    with pytest.raises(DataError, match=r"3 samples are damaged, more than the 2 that data.max_damaged allows"):
        stream([index], ledger=tmp_path / "q.jsonl", max_damaged=0.1, steps=11)
    assert len(rows(tmp_path / "q.jsonl")) == 3


def test_ranks_count_damage_together(tmp_path):
    ranks = [Quarantine(tmp_path / "q.jsonl", limit=2) for _ in range(3)]
    ranks[0].add("a.tar", "1", "bad")
    ranks[1].add("a.tar", "1", "bad")
    ranks[1].add("a.tar", "2", "bad")
    with pytest.raises(DataError, match="3 samples are damaged, more than the 2"):
        ranks[2].add("b.tar", "1", "bad")
    assert [(row["shard"], row["key"], row["count"]) for row in rows(tmp_path / "q.jsonl")] == [
        ("a.tar", "1", 1),
        ("a.tar", "2", 2),
        ("b.tar", "1", 3),
    ]


def test_training_and_validation_count_their_own_damage(tmp_path):
    """A hundred bad training samples, of many, must not use up what a small validation set may lose."""
    train = Quarantine(tmp_path / "q.jsonl", limit=150, shards=["train.tar"])
    val = Quarantine(tmp_path / "q.jsonl", limit=1, shards=["val.tar"])
    for n in range(100):
        train.add("train.tar", str(n), "bad")
    val.add("val.tar", "1", "bad")
    assert len(val.seen) == 1 and len(rows(tmp_path / "q.jsonl")) == 101
    with pytest.raises(DataError, match="2 samples are damaged, more than the 1"):
        val.add("val.tar", "2", "bad")


def test_nothing_but_damage_ends_the_run(tmp_path, depth_shards):
    (index,) = copied(depth_shards, tmp_path)
    for path in index.shards:
        Path(path).unlink()
    with pytest.raises(DataError, match="5 damaged samples in a row for position 0"):
        stream([index], max_damaged=1.0)


# ---- data workers ------------------------------------------------------------------------------------------------------


LATE = {"batch": 2, "steps": 18}  # train011 does not stand in the first batch, which the trainer makes itself


@pytest.mark.parametrize(("function", "word"), [(dies, "SIGKILL"), (hangs, "made no progress for 4 s")])
def test_a_lost_worker_is_named_and_replaced_and_nothing_changes(found, tmp_path, monkeypatch, caplog, function, word):
    expected = stream(found, **LATE)
    assert "train011" not in [name for name, *_ in expected[:2]]
    monkeypatch.setenv("FLAG", str(tmp_path / "flag"))
    assert stream(found, prepare=function, workers=2, timeout=4.0, **LATE) == expected
    (message,) = [record.message for record in caplog.records]
    assert word in message and "sample train011 in" in message and message.startswith("data worker ")


def test_a_sample_that_kills_every_worker_ends_the_run_within_seconds(found, tmp_path, monkeypatch):
    (tmp_path / "always").mkdir()
    monkeypatch.setenv("FLAG", str(tmp_path / "always" / "flag"))
    start = time.monotonic()
    with pytest.raises(DataError, match="sample train011 in .*, twice in the same batch"):
        stream(found, prepare=dies, workers=2, **LATE)
    assert time.monotonic() - start < 60


def test_a_mistake_in_prepare_is_shown_with_its_place(found):
    with pytest.raises(ZeroDivisionError) as caught:
        stream(found, prepare=fails, workers=1, **LATE)
    assert "in fails" in str(caught.value.__cause__) and "data worker 0" in str(caught.value.__cause__)


def test_a_batch_keeps_its_memory_for_as_long_as_anybody_looks_at_it(found):
    """Views of slots that are handed out are never written again; hoarding all of them works as well."""
    loader_ = batches(found, workers=2, steps=40)
    kept, copies = [], []
    for batch in loader_:
        kept.append(batch["image"][1:])
        copies.append(batch["image"][1:].clone())
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))
    assert len({image.data_ptr() for image in kept}) == 40


@pytest.mark.parametrize("workers", [0, 2])
def test_items_written_straight_into_the_batch_are_the_same(found, workers):
    assert stream(found, prepare=placed, workers=workers, max_damaged=0.1) == stream(
        found, prepare=refused, max_damaged=0.1
    )


def shared_files() -> set[str]:
    """Named temporary files in shared memory; other names there belong to others."""
    return {path.name for path in Path("/dev/shm").glob("tmp*")}


def test_a_killed_trainer_leaves_nothing_behind(found):
    before = shared_files()
    trainer = psutil.Popen([sys.executable, "-m", "tests.data.items", *found[0].shards], stdout=subprocess.PIPE)
    for _ in range(5):
        trainer.stdout.readline()
    family = trainer.children(recursive=True)
    assert len(family) >= 3  # two workers, and the server that they are forked from
    trainer.kill()
    trainer.wait()
    gone, alive = psutil.wait_procs(family, timeout=60)
    assert not alive and shared_files() <= before


def test_the_system_is_told_what_is_read_next(found, monkeypatch):
    """From the second batch on, when it is known that `prepare` uses the picture alone: just its bytes, before they are read."""
    told, read, pread = [], [], os.pread
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, offset, size, advice: told.append((offset, size)))
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: read.append((offset, size)) or pread(fd, size, offset))
    iterator = iter(batches(found, steps=3))
    next(iterator), told.clear(), read.clear()
    next(iterator)
    assert told == read and len(told) == 4


def test_slots_are_used_again(found):
    pointers = {batch["image"].data_ptr() for batch in batches(found, workers=2, ahead=2, steps=60)}
    assert len(pointers) <= 2 * 2 + 2 + 1  # the slots, and the block of the first batch


def test_no_worker_and_no_shared_memory_stays_behind(found):
    children, before = psutil.Process().children, shared_files()
    iterator = iter(batches(found, workers=2, steps=40))
    next(iterator), next(iterator)
    running = {child.pid for child in children(recursive=True)}
    iterator.close()
    until(lambda: len(fork_servers(running)) <= 1)  # the fork server itself stays, for the next loader
    assert shared_files() <= before


def fork_servers(among: set[int]) -> list[int]:
    """Those of these processes that are a fork server or were forked by one, and still live."""
    found = []
    for pid in among:
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one as well
            if any("forkserver" in word for word in psutil.Process(pid).cmdline()):
                found.append(pid)
    return found


def private_megabytes(index: Index, workers: int) -> float:
    """Memory that each data worker has for itself alone, on average, in the middle of its work."""
    iterator = iter(batches([index], workers=workers, steps=12 * workers, arrangement=Arrangement(0, 1024)))
    for _ in range(4 * workers):
        next(iterator)
    own = [
        p.memory_full_info().uss for p in psutil.Process().children(recursive=True) if "forkserver" in p.cmdline()[-1]
    ]
    iterator.close()
    return sum(sorted(own)[-workers:]) / workers / 1e6


def test_workers_share_one_index(found, tmp_path):
    """A million samples a worker: the index is 60 MB on disk, mapped by all of them and copied by none."""
    small, n = found[0], 1_000_000
    rows = np.arange(n) % 9  # the samples of the first shard, over and over
    members = (small.first[rows][:, None] + np.arange(3, dtype=np.uint64)).ravel()
    arrays = {name: small.arrays[name][rows] for name in ("shard", "schema", "width", "height", "frames")}
    arrays |= {name: small.arrays[name][members] for name in ("block", "size", "hash")}
    keys = np.tile(np.frombuffer(b"trainsample", np.uint8), n)
    arrays |= {"first": np.arange(n, dtype=np.uint64) * 3, "keys": keys}
    arrays["key_end"] = (np.arange(n, dtype=np.uint64) + 1) * 11
    path = Index(small.shards, small.sizes, small.schemas, arrays, []).save(tmp_path / "large.vstrain-index")
    large = Index.load(path, small.shards)
    assert path.stat().st_size > 60e6 and len(large) == n
    assert private_megabytes(large, 4) < private_megabytes(small, 4) + 15


def test_too_little_shared_memory_is_said_at_once(found, monkeypatch):
    import errno

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match="no room for .* MB of shared memory .* lower data.workers"):
        stream(found, workers=2)


def test_keyed_draws_depend_on_key_and_purpose_alone():
    keys = torch.tensor([11, 22, 33])
    noise = keyed.normal(keys, (2, 3), "noise")
    assert torch.equal(noise[1], keyed.normal(keys[1:2], (2, 3), "noise")[0])
    assert torch.equal(noise.flip(0), keyed.normal(keys.flip(0), (2, 3), "noise"))
    assert not torch.equal(noise, keyed.normal(keys, (2, 3), "other"))
    assert not torch.equal(noise[0], noise[1])
    many = torch.arange(4000)
    assert abs(keyed.normal(many, (4,), "n").mean()) < 0.03 and abs(keyed.normal(many, (4,), "n").std() - 1) < 0.03
    assert set(keyed.integers(many, 2, 5, "i").tolist()) == {2, 3, 4}
    uniform = keyed.uniform(many, "u")
    assert uniform.shape == (4000,) and uniform.min() >= 0 and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 0.03
    assert keyed.normal(keys.to("meta"), (2, 3), "noise").shape == (3, 2, 3)
