from __future__ import annotations

from importlib import import_module

import pytest
import torch

from tests.systems.sharding import assert_same_when_sharded


@pytest.mark.parametrize("name", ["image", "motion"])
def test_unets_and_encoders(make_config, make_batch, name):
    config = make_config(f"story_{name}")
    module, prepare = (import_module(f"vstrain.systems.story.{name}.{part}") for part in ("module", "prepare"))
    torch.manual_seed(0)
    system = module.System(config)
    system.configure_model()
    assert_same_when_sharded(system, make_batch(prepare.prepare, config))
