"""The gradients of an optimiser step between backward and step, wherever a strategy keeps them: their norm, clipping, dropping.

A rank's `norm_squared` is its share: summed over all ranks it gives the squared norm of the whole gradient. A gradient that
several ranks hold alike (ddp; the replicas of hsdp) counts for each of them with the fraction 1 / replicas.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

TINY = 1e-6  # as in torch.nn.utils.clip_grad_norm_


def of(trainer: Trainer, optimizer: torch.optim.Optimizer) -> Gradients | ZeroGradients:
    zero = getattr(trainer.strategy, "state", None)
    return Gradients(optimizer) if zero is None else ZeroGradients(zero.gradients(), zero.optimizer)


class Gradients:
    """In `parameter.grad`: single, ddp, fsdp2, hsdp."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def norm_squared(self) -> Tensor:
        """float64 scalar on the gradients' device."""
        world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        alike: dict[int, list[Tensor]] = {}
        for gradient in self._all():
            alike.setdefault(replicas(gradient, world), []).append(local(gradient))
        shares = [torch.stack(torch._foreach_norm(tensors)).double().square().sum() / n for n, tensors in alike.items()]
        return torch.stack(shares).sum() if shares else torch.zeros((), dtype=torch.float64)

    def clip(self, largest: float, norm: float) -> None:
        """Scale so that the norm, which is `norm` now, is at most `largest`."""
        if norm + TINY > largest:
            torch._foreach_mul_([local(gradient) for gradient in self._all()], largest / (norm + TINY))

    def drop(self) -> None:
        """Without gradients an optimiser's step changes neither weights nor its state."""
        for parameter in self.parameters:
            parameter.grad = None

    def _all(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]


class ZeroGradients:
    """Where DeepSpeed keeps them: every rank has a part of its own."""

    def __init__(self, tensors: list[Tensor], optimizer):
        self.tensors, self.optimizer = tensors, optimizer

    def norm_squared(self) -> Tensor:
        return torch.stack(torch._foreach_norm(self.tensors)).double().square().sum()

    def clip(self, largest: float, norm: float) -> None:
        if norm + TINY > largest:
            torch._foreach_mul_(self.tensors, largest / (norm + TINY))

    def drop(self) -> None:
        """Have the coming step find an overflow: DeepSpeed then clears its gradients and leaves weights and state as they are."""
        zero, before = self.optimizer, getattr(self.optimizer, "check_grad_overflow", None)
        if hasattr(zero, "fp32_partitioned_groups_flat"):  # stage 3
            self._once("_get_norm_groups", lambda: [torch.tensor(float("inf"))])
            return

        def overflow(**words) -> None:
            zero.check_grad_overflow, zero.overflow = before, True

        zero.check_grad_overflow = True
        self._once("check_overflow", overflow)

    def _once(self, name: str, stand_in) -> None:
        """`stand_in` for the next call of a method of DeepSpeed's optimiser."""

        def call(*args, **words):
            delattr(self.optimizer, name)
            return stand_in(*args, **words)

        setattr(self.optimizer, name, call)


def local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def replicas(gradient: Tensor, world: int) -> int:
    """How many ranks hold this very piece."""
    if not isinstance(gradient, DTensor):
        return world
    mesh = gradient.device_mesh
    inside = [mesh.size(dim) for dim, placement in enumerate(gradient.placements) if isinstance(placement, Replicate)]
    return int(torch.tensor([world // mesh.size(), *inside]).prod())
