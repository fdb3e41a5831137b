"""What the trainer does to the repeated blocks of a system from outside: activations computed again in the backward pass, and
compilation. Only `forward` of a block is replaced, on the instance: names in checkpoints, classes and hooks stay as they are,
so sharding may come before or after."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from vstrain.config.problems import InputError
from vstrain.config.schema import Trainer
from vstrain.system import System

aten = torch.ops.aten
KEPT = {  # what costs most to compute again: matrix products, convolutions, attention
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.convolution.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
    aten._scaled_dot_product_attention_math.default,
}

ENTRIES = 512


def apply(system: System, trainer: Trainer) -> None:
    """Give every block of `system` what `trainer.checkpointing` and `trainer.compile` ask for. Call it once, after `build`."""
    blocks = system.blocks()
    for key, wanted in (("checkpointing", trainer.checkpointing != "none"), ("compile", trainer.compile)):
        if wanted and not blocks:
            raise InputError(
                f"trainer.{key}: system {system.config.module} names no blocks; give its System `blocks()`"
            )
    if trainer.compile:
        require_compiler(system.device)
        # blocks of one class share one cache of compiled code, with an entry for each shape and mode
        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = ENTRIES
    for block in blocks:
        forward = block.forward
        if trainer.checkpointing == "selective":
            forward = recomputed(forward, functools.partial(create_selective_checkpoint_contexts, _policy))
        if trainer.compile:
            forward = torch.compile(
                forward, dynamic=False
            )  # blocks share code, so varying widths would pass for dynamic
        if trainer.checkpointing == "full":
            forward = recomputed(forward)
        if forward is not block.forward:
            block.forward = forward


def recomputed(forward: Callable, contexts: Callable | None = None) -> Callable:
    """`forward`, which keeps only its inputs for the backward pass, and what the policy of `contexts` says. Draws repeat."""
    keywords = {} if contexts is None else {"context_fn": contexts}

    @functools.wraps(forward)
    def run(*arguments, **named):
        if not torch.is_grad_enabled():
            return forward(*arguments, **named)
        return checkpoint(forward, *arguments, use_reentrant=False, **keywords, **named)

    return run


def _policy(context, operator, *arguments, **named) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def require_compiler(device: torch.device) -> None:
    """Raise one sentence unless torch.compile can make code for `device` here."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise InputError("trainer.compile=true: CUDA code is made by Triton, which is not usable here; use false")
        return
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except (exc.InvalidCxxCompiler, OSError) as error:
        raise InputError(
            "trainer.compile=true: CPU code is made by a C++ compiler, and none is found (set CXX or install g++); use false"
        ) from error
