"""One attention function, several kernels.

sdpa      torch's scaled_dot_product_attention: everywhere
math      the formula, softmax in float32 at least: the reference, and what explains numbers
xformers  memory-efficient attention of the optional package `xformers`: CUDA
flex      torch's flex_attention: trains on CUDA, inference only on the CPU
"""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vstrain.config.problems import InputError

Impl = Literal["sdpa", "math", "xformers", "flex"]


def require(impl: Impl) -> None:
    """Raise InputError unless `impl` can train on this machine; called before a run starts."""
    if impl == "xformers" and importlib.util.find_spec("xformers") is None:
        raise InputError(
            "attention=xformers: the package xformers is not installed"
            " (pip install 'vstrain[xformers]'); attention=sdpa needs nothing"
        )
    if impl in ("xformers", "flex") and not torch.cuda.is_available():
        raise InputError(f"attention={impl}: it trains on a CUDA device and this machine has none; use attention=sdpa")


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, impl: Impl = "sdpa") -> Tensor:
    """softmax(q k^T / sqrt(d)) v. q (B, H, N, d), k and v (B, H, M, d) -> (B, H, N, d).

    `mask`: bool, broadcastable to (B, H, N, M), True where a query may read a key.
    """
    match impl:
        case "sdpa":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        case "math":
            return _math(q, k, v, mask)
        case "xformers":
            return _xformers(q, k, v, mask)
        case "flex":
            return _flex(q, k, v, mask)
    raise ValueError(f"attention {impl!r}: expected sdpa, math, xformers or flex")


def in_transformers(impl: Impl) -> str:
    """The name under which models of `transformers` take `attention` with this kernel (`attn_implementation`)."""
    if impl == "sdpa":
        return "sdpa"

    from transformers import AttentionInterface

    def forward(module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **options) -> tuple[Tensor, None]:
        return attention(q, k, v, mask, impl).transpose(1, 2), None

    AttentionInterface.register(f"vstrain-{impl}", forward)
    return f"vstrain-{impl}"


def _math(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (q.to(wide) @ k.to(wide).transpose(-2, -1)) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return (scores.softmax(dim=-1) @ v.to(wide)).to(q.dtype)


def _xformers(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    from xformers.ops import memory_efficient_attention

    bias = None
    if mask is not None:
        bias = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -torch.inf)
        bias = bias.expand(*q.shape[:3], k.shape[2])
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return memory_efficient_attention(q, k, v, attn_bias=bias).transpose(1, 2)


def _flex(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    if mask is None:
        return flex_attention(q, k, v)
    allowed = mask.expand(*q.shape[:3], k.shape[2])

    def masked(score, b, h, i, j):
        return torch.where(allowed[b, h, i, j], score, -torch.inf)

    return flex_attention(q, k, v, score_mod=masked)
