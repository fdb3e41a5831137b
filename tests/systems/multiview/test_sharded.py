from __future__ import annotations

from tests.systems.sharding import assert_same_when_sharded


def test_frozen_encoders_and_adapters(make_config, make_system, make_batch):
    config = make_config()
    assert_same_when_sharded(make_system(config), make_batch(config, count=2, training=True))
