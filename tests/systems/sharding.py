"""Does a system compute the same when its weights are sharded? On one process, where a shard is the whole: what is checked
is that every weight is gathered where the system uses it. The rest is in tests/distributed."""

from __future__ import annotations

import copy
import multiprocessing

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, OffloadPolicy

from vstrain.engine.strategies.sharded import shard
from vstrain.engine.validation import inference


def assert_same_when_sharded(system, batch: dict) -> None:
    """Loss, scores, pictures, and the weights after one step of plain descent."""
    child = multiprocessing.get_context("fork").Process(target=compare, args=(system, batch))
    child.start()  # a process of its own, for its process group
    child.join(120)
    assert child.exitcode == 0


def compare(system, batch: dict) -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    expected = run(copy.deepcopy(system), batch)
    shard(system, init_device_mesh("cpu", (1,), mesh_dim_names=("shard",)), MixedPrecisionPolicy(), OffloadPolicy())
    found = run(system, batch)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if name.startswith("pictures"):  # rounded to bytes, and drawn from many calls
            assert np.abs(found[name] - value).mean() < 0.01, name
        else:
            # a score may count pixels, some of which stand at its threshold
            room = 2e-3 if name.startswith("after") else 2e-4 if name.startswith("weight") else 1e-5
            assert np.allclose(found[name], value, rtol=1e-4, atol=room), (name, np.abs(found[name] - value).max())


def run(system, batch: dict) -> dict[str, np.ndarray]:
    system.train()
    results = look(system, batch, "before")
    loss = system.training_step(batch, 0)["loss"]
    loss.backward()
    torch.optim.SGD([parameter for parameter in system.parameters() if parameter.requires_grad], lr=1e-2).step()
    results |= {"loss": loss.detach().numpy()} | look(system, batch, "after")
    state = {name: x.full_tensor() if hasattr(x, "full_tensor") else x for name, x in system.state_dict().items()}
    return results | {f"weight/{name}": value.detach().numpy() for name, value in state.items()}


def look(system, batch: dict, time: str) -> dict[str, np.ndarray]:
    with inference(system):
        scores = {f"{time}/{name}": value.float().numpy() for name, value in system.evaluate(batch).items()}
        pictures = system.pictures(batch)
    return scores | {f"pictures/{time}/{name}": value.astype(np.float32) / 255 for name, value in pictures.items()}
