"""`fsdp2`: weights, gradients and optimiser state in equal parts on all ranks, gathered unit by unit (`fully_shard`).
`hsdp`: the same within groups of `strategy.shard` ranks, each group a copy of the others."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from vstrain.config.problems import InputError
from vstrain.config.schema import Strategy, TrainConfig
from vstrain.engine.strategies.data_parallel import TIMEOUT, contiguous
from vstrain.nn.frozen import Frozen
from vstrain.system import System

ENTRIES = ("training_step", "evaluate", "pictures")  # the methods through which the engine runs a system's networks


class Sharded(ModelParallelStrategy):
    sharded = spread = True

    def __init__(self, config: TrainConfig, world: int):
        offload = config.strategy.offload
        super().__init__(
            data_parallel_size=world,
            tensor_parallel_size=1,
            # the norm of gradients that stay on the host is summed by gloo
            process_group_backend="cpu:gloo,cuda:nccl" if offload else None,
            timeout=TIMEOUT,
        )
        self.config, self.world = config, world

    def tensor_init_context(self, empty_init: bool | None = None):
        return super(ModelParallelStrategy, self).tensor_init_context(
            empty_init
        )  # weights are drawn where ddp draws them

    def setup(self, trainer: Trainer) -> None:
        device = self.root_device
        if self.config.strategy.offload and device.type == "cpu":
            raise InputError(
                "strategy.offload=true moves weights from the GPU to the host, but this run is on the CPU; leave it out"
            )
        self.model.to(device)
        shard(
            self.model,
            mesh(self.config.strategy, device.type, self.world),
            mixed_precision(self.config.trainer.precision),
            CPUOffloadPolicy(pin_memory=True) if self.config.strategy.offload else OffloadPolicy(),
        )
        super().setup(trainer)

    def model_to_device(self) -> None:
        """`setup` moved everything before it was sharded; what is offloaded stays on the host."""


def mesh(strategy: Strategy, device: str, world: int) -> DeviceMesh:
    if strategy.name == "fsdp2":
        return init_device_mesh(device, (world,), mesh_dim_names=("shard",))
    return init_device_mesh(device, (world // strategy.shard, strategy.shard), mesh_dim_names=("replicate", "shard"))


def mixed_precision(precision: str) -> MixedPrecisionPolicy:
    """With autocast, which computes in bf16, weights may as well be gathered in bf16: half the bytes on the wire. Gradients of
    bf16 are added up over the ranks in float32."""
    return MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "bf16-mixed" else None,
        reduce_dtype=torch.float32 if precision.startswith("bf16") else None,
        cast_forward_inputs=False,
    )


def shard(system: System, mesh: DeviceMesh, policy: MixedPrecisionPolicy, offload: OffloadPolicy) -> None:
    """Units first, then what is left as the root. Frozen helpers are sharded as well, in their own precision."""
    helpers = [module.net for module in system.modules() if isinstance(module, Frozen)]
    for network in (system, *helpers):
        contiguous(network)
    inside = {module for helper in helpers for module in helper.modules()}
    for unit in system.blocks():
        own = {"mp_policy": MixedPrecisionPolicy()} if unit in inside else {"mp_policy": policy}
        fully_shard(unit, mesh=mesh, offload_policy=offload, **own)
    for helper in helpers:
        fully_shard(helper, mesh=mesh, offload_policy=offload, reshard_after_forward=True)
    fully_shard(system, mesh=mesh, mp_policy=policy, offload_policy=offload)
    for method in ENTRIES:
        register_fsdp_forward_method(system, method)
