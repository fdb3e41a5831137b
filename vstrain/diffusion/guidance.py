"""Guidance: two answers of a network, with and without its condition, made into one."""

from __future__ import annotations

from torch import Tensor


def guide(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598): scale 0 is unconditional, 1 conditional."""
    return unconditional + scale * (conditional - unconditional)


def rescale(guided: Tensor, conditional: Tensor, amount: float) -> Tensor:
    """Guidance rescale (arXiv 2305.08891, section 3.4): move each sample's standard deviation towards that of
    the conditional answer; amount 0 changes nothing, 1 takes it over. (B, ...) -> (B, ...)."""
    dims = tuple(range(1, guided.ndim))
    matched = guided * (conditional.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True))
    return amount * matched + (1 - amount) * guided
