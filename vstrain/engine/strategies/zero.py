"""`zero1`, `zero2`, `zero3`: DeepSpeed's sharding of optimiser state, gradients, weights. On CUDA and, over gloo, on the CPU.

Weights, gradients and moments are float32 under every precision, as in our other strategies; bf16-mixed is autocast.
"""

from __future__ import annotations

import argparse
import logging
from contextlib import AbstractContextManager, nullcontext

import deepspeed
import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy

from vstrain.config.schema import TrainConfig
from vstrain.data.stream import Share
from vstrain.engine.strategies.data_parallel import TIMEOUT, contiguous
from vstrain.engine.strategies.zero_state import ZeroState

# its all-reduce in shared memory, for ranks on the CPU of one host, would be compiled at the first use: gloo does as well
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

BUCKET = 50_000_000  # elements that one collective moves


class Float32(DeepSpeedPrecision):
    """DeepSpeed's part of the precision is always float32; `Zero.call` adds autocast."""

    def __init__(self):
        super().__init__("32-true")

    def backward(self, tensor, model, optimizer, *arguments, **named) -> None:
        model.trainer.model.backward(tensor, scale_wrt_gas=False)  # Lightning has divided by the micro-batches already


class Zero(DeepSpeedStrategy):
    spread = True
    state: ZeroState

    def __init__(self, config: TrainConfig):
        self.stage = int(config.strategy.name.removeprefix("zero"))
        super().__init__(
            stage=self.stage,
            offload_optimizer=config.strategy.offload,
            overlap_comm=False,
            allgather_bucket_size=BUCKET,
            reduce_bucket_size=BUCKET,
            logging_level=logging.ERROR,
            precision_plugin=Float32(),
            timeout=TIMEOUT,
        )
        self.config["gradient_clipping"] = 0.0  # the step boundary clips, under every strategy
        self.config["train_micro_batch_size_per_gpu"] = 1  # for DeepSpeed's own throughput log, which is off
        self.sharded = self.stage == 3
        self.precision, self.offload = config.trainer.precision, config.strategy.offload

    def setup_environment(self) -> None:
        super(DeepSpeedStrategy, self).setup_environment()  # past a check that refuses the CPU

    def setup_distributed(self) -> None:
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def tensor_init_context(self, empty_init: bool | None = None):
        return super(DeepSpeedStrategy, self).tensor_init_context(empty_init)

    def model_sharded_context(self) -> AbstractContextManager:
        """The model is built whole and sharded afterwards: systems copy and fill weights while they build."""
        return nullcontext()

    def _setup_model_and_optimizer(self, model, optimizer, lr_scheduler=None):
        contiguous(model)
        engine, optimizer, _, _ = deepspeed.initialize(
            args=argparse.Namespace(device_rank=self.local_rank),
            config=self.config,
            model=model,
            model_parameters=[parameter for parameter in model.parameters() if parameter.requires_grad],
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        share = Share(self.global_rank, self.world_size)
        self.state = ZeroState(model, optimizer, self.stage, share, self.offload)
        return engine, optimizer

    def training_step(self, *arguments):
        return self.call("training_step", *arguments)

    def call(self, method: str, *arguments):
        """A method of the system as the forward pass of DeepSpeed's engine, whose hooks gather the weights."""
        system = self.lightning_module
        forward = system.forward

        def redirected(*inner):
            del system.forward  # the method may call the real one
            with self.autocast():  # in here: DeepSpeed turns off one that it finds outside
                return getattr(system, method)(*inner)

        assert forward.__func__ is type(system).forward
        system.forward = redirected
        return self.model(*arguments)

    def autocast(self) -> AbstractContextManager:
        if self.precision != "bf16-mixed":
            return nullcontext()
        return torch.autocast(self.root_device.type, dtype=torch.bfloat16)
