"""The order of samples as a law: exact epochs, exact proportions, one bucket a batch, whatever the sizes."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vstrain.data.buckets import Bucket, Buckets
from vstrain.data.mixture import Mixture
from vstrain.data.order import Order, permute
from vstrain.data.problems import DataError
from vstrain.data.stream import Share, TrainPlan, ValPlan

counts = st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(sum)
few = st.integers(1, 9)


@given(st.integers(1, 300), st.integers(0, 2**63))
@settings(max_examples=200, deadline=None)
def test_a_permutation_permutes(size, key):
    out = permute(np.arange(size), np.full(size, size), np.full(size, key, np.uint64))
    assert sorted(out.tolist()) == list(range(size))


def test_all_permutations_are_about_equally_likely():
    keys = np.random.default_rng(0).integers(0, 2**63, 24_000)
    seen = Counter(tuple(permute(np.arange(4), np.full(4, 4), np.full(4, key, np.uint64)).tolist()) for key in keys)
    assert len(seen) == 24
    chi_squared = sum((count - 1000) ** 2 / 1000 for count in seen.values())
    assert chi_squared < 60  # 23 degrees of freedom: above 60 in one of 30,000 fair draws


@given(counts, few, st.integers(1, 60), few, few, st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_every_epoch_holds_every_sample_once(counts, seed, block, lanes, chunk, epoch):
    order, total = Order(counts, seed, block, lanes, chunk), sum(counts)
    epochs, ids = order.samples_at(np.arange(epoch * total, (epoch + 1) * total))
    assert sorted(ids.tolist()) == list(range(total)) and set(epochs.tolist()) == {epoch}


@given(counts, few, few, few, st.data())
@settings(max_examples=100, deadline=None)
def test_a_position_does_not_depend_on_what_is_asked_with_it(counts, block, lanes, chunk, data):
    order, total = Order(counts, 1, block, lanes, chunk), sum(counts)
    positions = np.array(data.draw(st.lists(st.integers(0, 5 * total), min_size=1, max_size=30)))
    together = order.samples_at(positions)[1]
    alone = [int(pickle.loads(pickle.dumps(order)).samples_at(np.array([p]))[1][0]) for p in positions]
    assert together.tolist() == alone


def test_epochs_and_seeds_give_other_orders():
    def ids(seed, epoch):
        return Order([100, 50], seed, 64).samples_at(np.arange(epoch * 150, (epoch + 1) * 150))[1].tolist()

    assert len({tuple(ids(seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16


def test_a_stretch_of_positions_reads_few_shards():
    order = Order([100] * 50, seed=0, block=100)
    ids = order.samples_at(np.arange(5000))[1]
    assert all(len(set(ids[start : start + 100] // 100)) == 1 for start in range(0, 5000, 100))


def test_a_rank_that_takes_a_fixed_part_of_every_batch_stays_in_its_lanes():
    """16 nodes, 64 lanes of 4: a node reads 1/16 of the shards, and those where a lane begins or ends."""
    lanes, chunk, shards, nodes = 64, 4, 640, 16
    order = Order([50] * shards, seed=3, block=200, lanes=lanes, chunk=chunk)
    batch, total = lanes * chunk, 50 * shards
    for node in (0, 7, 15):
        mine = np.concatenate(
            [np.arange(s, s + batch // nodes) + node * batch // nodes for s in range(0, total - batch, batch)]
        )
        touched = len(set(order.samples_at(mine)[1] // 50))
        assert touched <= 1.1 * shards / nodes + lanes / nodes


def test_fifteen_million_samples_on_four_thousand_ranks():
    """The paper case: every step even on all ranks; first ids of any rank from a 15,000-shard index, no table of the epoch."""
    ranks, batch = 4096, 32_768
    order = Order(np.full(15_000, 1000), seed=0, block=8192, lanes=512, chunk=64)
    sizes = {len(TrainPlan(batch, 1, Share(rank, ranks), 0, 3)[1]) for rank in (0, 1, 2047, 4095)}
    assert sizes == {8}
    one_step = order.samples_at(np.arange(batch))[1]
    assert len(set(one_step.tolist())) == batch
    spread = np.histogram(one_step, bins=16, range=(0, 15e6))[0]
    assert spread.min() > 0.6 * batch / 16 and spread.max() < 1.4 * batch / 16
    held = sum(array.nbytes for array in vars(order).values() if isinstance(array, np.ndarray))
    assert held < 2e6


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 3000))
@settings(max_examples=150, deadline=None)
def test_a_mixture_is_within_one_of_its_weights_at_every_position(weights, total):
    mixture = Mixture([float(weight) for weight in weights])
    source, own = mixture.places(np.arange(total))
    for number, weight in enumerate(weights):
        mine = source == number
        assert own[mine].tolist() == list(range(mine.sum()))  # every source runs through its own positions, none lost
        due = np.arange(1, total + 1) * weight / sum(weights)
        assert np.abs(np.cumsum(mine) - due).max() < 1


def test_weights_of_four_decimals_are_exact_and_others_nearly():
    assert Mixture([0.1234, 0.8766]).quotas == [617, 4383]
    pi = Mixture([3.14159265, 1.0])
    assert pi.period == 10_000 and abs(pi.quotas[0] / 10_000 - 3.14159265 / 4.14159265) < 1e-4
    assert min(Mixture([1e-9, 1.0]).quotas) == 1  # a source with a weight does have a share


@pytest.mark.parametrize("bad", [[0.0, 1.0], [-1.0, 2.0], [float("nan")], [float("inf"), 1.0]])
def test_a_weight_that_is_not_positive_is_refused(bad):
    with pytest.raises(DataError, match="must be a positive number"):
        Mixture(bad)


SHAPES = [Bucket(8, 8), Bucket(8, 12), Bucket(12, 8)]


def plan_of(sizes: np.ndarray, batch: int, window: int, shapes=SHAPES) -> Buckets:
    def look(positions):
        width, height, frames = sizes[positions % len(sizes)].T
        return width, height, frames

    return Buckets(shapes, look, batch, window, seed=5)


@given(few, few, st.integers(1, 200), st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_buckets_keep_every_position_and_give_a_step_one_shape(batch, window, seed, number):
    sizes = np.random.default_rng(seed).integers(1, 40, (97, 3))
    plan, span = plan_of(sizes, batch, window), batch * window
    slots = np.arange(number * span, (number + 1) * span)
    moved, bucket = plan.places(slots)
    assert sorted(moved.tolist()) == slots.tolist()
    assert all(len(set(row)) == 1 for row in bucket.reshape(-1, batch))
    fits = plan.choose(*sizes[moved % 97].T) == bucket
    strangers = sum(not row.all() for row in fits.reshape(-1, batch))
    assert strangers < len(SHAPES)  # only left-overs, and they fill fewer batches than there are buckets
    halves = [plan.places(part) for part in np.array_split(slots, 3)]  # asked for in pieces, as ranks do
    assert np.concatenate([half[0] for half in halves]).tolist() == moved.tolist()
    assert np.concatenate([half[1] for half in halves]).tolist() == bucket.tolist()


def test_a_clip_goes_to_the_longest_duration_it_has_and_the_nearest_aspect():
    plan = plan_of(np.ones((1, 3), int), 2, 2, [Bucket(8, 8, 4), Bucket(8, 8, 16), Bucket(8, 16, 16)])
    chosen = plan.choose(np.array([10, 10, 30, 10]), np.array([10, 10, 15, 10]), np.array([4, 15, 99, 1]))
    assert [plan.buckets[n] for n in chosen] == [(8, 8, 4), (8, 8, 4), (8, 16, 16), (8, 8, 4)]


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 5), st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_shares_of_ranks_make_up_the_global_batches(world, accumulate, local, seen):
    batch, steps = world * accumulate * local, 3
    plans = [TrainPlan(batch, accumulate, Share(rank, world), seen, steps) for rank in range(world)]
    joined = [p for micro in range(len(plans[0])) for plan in plans for p in plan[micro].tolist()]
    assert joined == list(range(seen, seen + batch * steps))


@given(st.integers(1, 50), st.integers(1, 9), st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_validation_shares_cover_every_sample(samples, batch, world):
    plans = [ValPlan(samples, batch, Share(rank, world)) for rank in range(world)]
    assert len({len(plan) for plan in plans}) == 1
    every = [p for plan in plans for k in range(len(plan)) for p in plan[k].tolist()]
    assert len(set(every)) == len(every) and set(range(samples)) <= set(every)
