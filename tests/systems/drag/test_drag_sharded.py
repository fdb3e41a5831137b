from __future__ import annotations

from tests.systems.sharding import assert_same_when_sharded


def test_two_unets_and_what_they_hand_over(make_system, make_batch, randomise_projections):
    system = make_system()
    randomise_projections(system)
    assert_same_when_sharded(system, make_batch(count=2))
