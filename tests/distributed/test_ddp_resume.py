"""Three gloo processes: the first step after a resume adds gradients up as the same step of an undisturbed run does."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import signal
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from vstrain.engine import guards
from vstrain.engine.strategies import data_parallel

dist.init_process_group("gloo")
rank = dist.get_rank()
assert guards.agreed_signal([None, signal.SIGUSR1, signal.SIGTERM][rank]) == "SIGTERM"
assert guards.agreed_signal(None) == ""
strategy = data_parallel.ddp()
strategy.parallel_devices, strategy.cluster_environment = [torch.device("cpu")] * 3, TorchElasticEnvironment()
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 1, 1))
ranks = strategy._setup_model(network)
image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(rank))
steps = []
for _ in range(3):  # a fresh DDP takes the first; had it rebuilt its buckets, the others would be rounded differently
    ranks(image).square().mean().backward()
    steps.append([parameter.grad.clone() for parameter in network.parameters()])
    ranks.zero_grad()
assert all(torch.equal(a, b) for step in steps for a, b in zip(step, steps[0]))
dist.barrier()
dist.destroy_process_group()
"""


def test_every_step_rounds_alike(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(SCRIPT)
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3", str(script)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
