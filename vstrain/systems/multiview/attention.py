"""Attention over the view axis and attention to picture tokens, as diffusers attention processors.

Frames are ordered target views first, then condition views: F = T + C rows a object, flattened into the
batch. The state of a call is one `Frames` object that travels through cross_attention_kwargs; nothing is
kept between calls.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from vstrain.nn.attention import Impl, attention

Bank = dict[str, tuple[Tensor, Tensor]]  # layer -> keys and values (B, C, heads, N, d) of the condition frames


@dataclass
class Frames:
    """What a layer must know about the rows of its batch."""

    targets: int  # T
    conditions: int  # C among the rows; 0 when `bank` already has their keys and values
    present: Tensor | None  # (B, C) bool: condition views that targets may see; None: all of them
    picture_tokens: Tensor  # (B * (T + C), M, D)
    bank: Bank | None = None  # filled, detached, by a call that has condition frames; read by one that has none


def attend_views(
    q: Tensor, k: Tensor, v: Tensor, seen_k: Tensor, seen_v: Tensor, present: Tensor | None, impl: Impl
) -> Tensor:
    """Each target reads its own tokens and those of all present condition views, in one softmax (spec
    section 4.1).

    q, k, v (B, T, heads, N, d); seen_k, seen_v (B, C, heads, N, d); present (B, C) bool -> (B, T, heads, N,
    d).
    """
    batch, targets, heads, tokens, width = k.shape

    def with_seen(own: Tensor, seen: Tensor) -> Tensor:
        seen = seen.transpose(1, 2).reshape(batch, 1, heads, -1, width).expand(-1, targets, -1, -1, -1)
        return torch.cat([own, seen], dim=3).flatten(0, 1)

    mask = None
    if present is not None:
        readable = torch.cat([present.new_ones(batch, 1), present], dim=1)
        mask = readable.repeat_interleave(tokens, dim=1).repeat_interleave(targets, dim=0)[:, None, None]
    return attention(q.flatten(0, 1), with_seen(k, seen_k), with_seen(v, seen_v), mask, impl).unflatten(
        0, (batch, targets)
    )


class ViewAttention:
    """Self-attention of the UNet: targets read the condition frames too, condition frames read only
    themselves."""

    def __init__(self, layer: str, impl: Impl):
        self.layer, self.impl = layer, impl

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: None = None,
        attention_mask: None = None,
        *,
        frames: Frames,
    ) -> Tensor:
        targets, rows = frames.targets, frames.targets + frames.conditions
        q, k, v = (
            _heads(project(hidden_states), attn.heads).unflatten(0, (-1, rows))
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        seen = k[:, targets:], v[:, targets:]
        if frames.bank is not None and not frames.conditions:
            seen = frames.bank[self.layer]
        elif frames.bank is not None:
            frames.bank[self.layer] = seen[0].detach(), seen[1].detach()
        out = attend_views(q[:, :targets], k[:, :targets], v[:, :targets], *seen, frames.present, self.impl)
        if frames.conditions:
            alone = attention(*(x[:, targets:].flatten(0, 1) for x in (q, k, v)), impl=self.impl)
            out = torch.cat([out, alone.unflatten(0, (-1, frames.conditions))], dim=1)
        return _project_out(attn, out.flatten(0, 1))


class PictureAttention(nn.Module):
    """Cross-attention of the UNet: what the query reads from the text plus what it reads from picture
    tokens through keys and values of their own. `to_v` begins at zero, so that a new layer changes
    nothing."""

    def __init__(self, context_width: int, inner_width: int, impl: Impl):
        super().__init__()
        self.impl = impl
        self.to_k = nn.Linear(context_width, inner_width, bias=False)
        self.to_v = nn.Linear(context_width, inner_width, bias=False)
        nn.init.zeros_(self.to_v.weight)

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: None = None,
        *,
        frames: Frames,
    ) -> Tensor:
        q = _heads(attn.to_q(hidden_states), attn.heads)
        text = (_heads(project(encoder_hidden_states), attn.heads) for project in (attn.to_k, attn.to_v))
        pictures = (_heads(project(frames.picture_tokens), attn.heads) for project in (self.to_k, self.to_v))
        return _project_out(attn, attention(q, *text, impl=self.impl) + attention(q, *pictures, impl=self.impl))


def install(unet: UNet2DConditionModel, impl: Impl) -> None:
    """Give every self-attention layer (attn1) of `unet` view attention and every cross-attention layer
    picture tokens."""
    processors = {}
    for name in unet.attn_processors:
        layer = name.removesuffix(".processor")
        if layer.endswith("attn1"):
            processors[name] = ViewAttention(layer, impl)
        else:
            attn = unet.get_submodule(layer)
            processors[name] = PictureAttention(attn.cross_attention_dim, attn.inner_dim, impl)
    unet.set_attn_processor(processors)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(R, N, heads * d) -> (R, heads, N, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _project_out(attn: Attention, x: Tensor) -> Tensor:
    """(R, heads, N, d) -> (R, N, width)."""
    linear, dropout = attn.to_out
    return dropout(linear(x.transpose(1, 2).flatten(2)))
