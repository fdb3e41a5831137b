"""Transformer blocks whose head width is free of the model width, the resampler made of them, and how blocks are found."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vstrain.nn.attention import attention


def of_kind(root: nn.Module, *kinds: type[nn.Module]) -> list[nn.Module]:
    """The outermost modules of these kinds in `root`, in its order: none lies inside another."""
    if isinstance(root, kinds):
        return [root]
    return [block for child in root.children() for block in of_kind(child, *kinds)]


class Attention(nn.Module):
    """Multi-head attention with an inner width of heads * head_dim, which need not be `width`.

    forward: x (B, N, width) reads context (B, M, width); without context it reads itself.
    """

    def __init__(self, width: int, heads: int, head_dim: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, heads * head_dim, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        k, v = self.to_kv(x if context is None else context).chunk(2, dim=-1)
        q, k, v = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in (self.to_q(x), k, v))
        return self.to_out(attention(q, k, v).transpose(1, 2).flatten(2))


def feed_forward(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class Block(nn.Module):
    """Pre-norm self-attention and feed-forward, both residual. (B, N, width) -> (B, N, width)."""

    def __init__(self, width: int, heads: int, head_dim: int):
        super().__init__()
        self.norm_attention, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, head_dim)
        self.feed = feed_forward(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_attention(x))
        return x + self.feed(self.norm_feed(x))


class Resampler(nn.Module):
    """Any number of tokens to a fixed number (perceiver resampler, arXiv 2204.14198): learned queries read
    the input and themselves, `depth` times. (B, M, input_width) -> (B, tokens, width)."""

    def __init__(self, input_width: int, width: int, tokens: int, depth: int, heads: int, head_dim: int):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(tokens, width) * width**-0.5)
        self.project = nn.Linear(input_width, width)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm_input": nn.LayerNorm(width),
                    "norm_query": nn.LayerNorm(width),
                    "attention": Attention(width, heads, head_dim),
                    "feed": nn.Sequential(nn.LayerNorm(width), feed_forward(width)),
                }
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(x)
        queries = self.queries.expand(len(x), -1, -1)
        for layer in self.layers:
            normed = layer["norm_query"](queries)
            context = torch.cat([layer["norm_input"](x), normed], dim=1)
            queries = queries + layer["attention"](normed, context)
            queries = queries + layer["feed"](queries)
        return self.norm(queries)
