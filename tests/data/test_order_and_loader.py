"""The sample at a global position: exact epochs, and the same on any number of ranks and workers and after any restart."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from vstrain.data import keyed, loader
from vstrain.data.index import DataError, Index, expand
from vstrain.data.loader import Share
from vstrain.data.order import Order


@pytest.mark.parametrize(("samples", "block"), [(1, 1), (7, 3), (12, 4), (100, 7), (50, 1000)])
def test_every_epoch_holds_every_sample_once(samples, block):
    order = Order(samples, seed=3, block=block)
    epochs = [[order.sample_at(p) for p in range(e * samples, (e + 1) * samples)] for e in range(3)]
    for number, epoch in enumerate(epochs):
        assert {e for e, _ in epoch} == {number}
        assert sorted(n for _, n in epoch) == list(range(samples))
    if samples > 6:
        assert [n for _, n in epochs[0]] != [n for _, n in epochs[1]]
        assert [n for _, n in epochs[0]] != [Order(samples, 4, block).sample_at(p)[1] for p in range(samples)]


def test_reading_stays_within_a_block():
    order, block = Order(1000, seed=0, block=100), 100
    ids = np.array([order.sample_at(p)[1] for p in range(1000)])
    assert all(len(set(ids[start : start + block] // block)) == 1 for start in range(0, 1000, block))


def prepare(sample: dict, rng: np.random.Generator) -> dict:
    return {"image": sample["png"], "draw": np.float32(rng.random()), "name": sample["__key__"]}


def stream(folder, *, world=1, workers=0, accumulate=1, start=0, steps=9, batch=4, seed=0):
    """(name, draw, key) of every position from `start`, in global order, put together from all ranks."""
    index = Index.open(expand([f"{folder}/train-*.tar"]))
    ranks = [
        list(
            loader.train_batches(
                index,
                prepare,
                seed=seed,
                block=8,
                batch_size=batch,
                accumulate=accumulate,
                steps=steps,
                start_step=start,
                share=Share(rank, world),
                workers=workers,
                quarantine=None,
            )
        )
        for rank in range(world)
    ]
    out = []
    for micro in zip(*ranks, strict=True):
        for part in micro:
            out += zip(part["name"], part["draw"].tolist(), part["key"].tolist(), strict=True)
    return out


def test_ranks_workers_and_micro_batches_play_no_part(depth_shards):
    whole = stream(depth_shards)
    assert len(whole) == 36 and len({name for name, *_ in whole[:22]}) == 22
    for other in (
        dict(world=2),
        dict(world=4),
        dict(workers=2),
        dict(accumulate=2),
        dict(world=2, accumulate=2, workers=1),
    ):
        assert stream(depth_shards, **other) == whole, other


@pytest.mark.parametrize("other", [dict(), dict(world=2), dict(workers=2)])
def test_a_restart_goes_on_at_the_exact_sample(depth_shards, other):
    assert stream(depth_shards, start=5, **other) == stream(depth_shards)[20:]


def test_another_seed_is_another_order_and_other_draws(depth_shards):
    a, b = stream(depth_shards), stream(depth_shards, seed=1)
    assert [x[0] for x in a] != [x[0] for x in b] and not {x[2] for x in a} & {x[2] for x in b}


def test_draws_differ_between_epochs(depth_shards):
    draws = {}
    for name, draw, _ in stream(depth_shards, steps=11):
        draws.setdefault(name, set()).add(draw)
    assert all(len(values) == 2 for values in draws.values())


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 3, 4, 16])
def test_validation_counts_every_sample_once_on_even_ranks(depth_shards, world, batch):
    index = Index.open(expand([f"{depth_shards}/val-*.tar"]))
    counts, batches = {}, set()
    for rank in range(world):
        part = list(
            loader.val_batches(
                index, prepare, seed=0, samples=None, batch_size=batch, share=Share(rank, world), workers=0
            )
        )
        batches.add(len(part))
        for b in part:
            for name, weight in zip(b["name"], b["weight"].tolist(), strict=True):
                counts[name] = counts.get(name, 0) + weight
    assert counts == {f"val{n:03d}": 1.0 for n in range(7)} and len(batches) == 1


def test_a_batch_that_does_not_divide_is_refused(depth_shards):
    with pytest.raises(DataError, match="multiple of"):
        stream(depth_shards, world=3)


def test_a_damaged_sample_is_noted_and_replaced_on_every_rank_alike(tmp_path, depth_shards):
    for path in depth_shards.glob("train-*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shards = expand([f"{tmp_path}/train-*.tar"])
    index = Index.open(shards)
    _, offset, size = index.members(4)[0]
    with shards[int(index.shard[4])].open("r+b") as file:
        file.seek(offset + size // 2)
        file.write(b"\x00\xff\x00\xff")

    def names(world: int, ledger):
        out = []
        ranks = [
            list(
                loader.train_batches(
                    index,
                    prepare,
                    seed=0,
                    block=8,
                    batch_size=4,
                    accumulate=1,
                    steps=11,
                    start_step=0,
                    share=Share(rank, world),
                    workers=0,
                    quarantine=ledger,
                )
            )
            for rank in range(world)
        ]
        for step in zip(*ranks, strict=True):
            out += [name for part in step for name in part["name"]]
        return out

    ledger = tmp_path / "quarantine.jsonl"
    whole = names(1, ledger)
    assert len(whole) == 44 and "train004" not in whole
    (line,) = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert line["key"] == "train004" and line["shard"].endswith("train-000000.tar")
    assert names(2, None) == whole
    healthy = stream(depth_shards, steps=11)
    changed = [n for n, (name, *_) in enumerate(healthy) if name != whole[n]]
    assert changed == [n for n, (name, *_) in enumerate(healthy) if name == "train004"]


def test_too_much_damage_ends_the_run(tmp_path):
    from vstrain.data.loader import Quarantine
    from vstrain.data.reader import DamagedSample

    ledger = Quarantine(tmp_path / "q.jsonl", limit=1)
    ledger.add(DamagedSample("a.tar", "1", "bad"))
    ledger.add(DamagedSample("a.tar", "1", "bad"))
    with pytest.raises(DataError, match="2 damaged samples, more than the 1 allowed"):
        ledger.add(DamagedSample("a.tar", "2", "bad"))


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
