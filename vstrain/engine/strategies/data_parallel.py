"""One whole copy of the model a process: `single`, and `ddp` with gradients averaged by all-reduce."""

from __future__ import annotations

from datetime import timedelta

from lightning.pytorch.strategies import DDPStrategy

TIMEOUT = timedelta(minutes=30)


def single():
    return "auto"


def ddp() -> DDPStrategy:
    """gloo on the CPU, NCCL on CUDA. Unused parameters are an error: a system freezes what never gets a gradient."""
    return DDPStrategy(find_unused_parameters=False, gradient_as_bucket_view=True, timeout=TIMEOUT)
