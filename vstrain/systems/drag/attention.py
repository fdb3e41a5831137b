"""Point-following attention (spec drag, section 3) as stateless diffusers attention processors.

Everything that a block needs comes as arguments through `cross_attention_kwargs`, by the block's name:
`bank`, the appearance encoder's normalised inputs, and `points`, the projected (handle, target) terms.
Nothing is kept on modules, so activation checkpointing may call a block twice.
"""

from __future__ import annotations

from collections import UserDict

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor2_0, IPAdapterAttnProcessor2_0
from torch import Tensor

from vstrain.config.problems import InputError
from vstrain.nn.attention import Impl, attention


class Bank(UserDict[str, Tensor]):
    """Block name -> (B, L, C). No dict, so that it is handed on as it is and blocks can put things into it: FSDP makes new
    ones of the dictionaries among a module's arguments."""


PointTerms = dict[str, tuple[Tensor, Tensor]]  # block name -> (handle, target), each (B, L, C)

STAGES = ("down_blocks", "mid_block", "up_blocks")  # in the order in which they run
FUSED_STAGES = {"full": STAGES, "midup": STAGES[1:], "up": STAGES[2:]}


def transformer_blocks(unet: UNet2DConditionModel) -> dict[str, BasicTransformerBlock]:
    """Name -> block, in the order in which they run."""
    named = [(name, block) for name, block in unet.named_modules() if isinstance(block, BasicTransformerBlock)]
    return dict(sorted(named, key=lambda item: STAGES.index(item[0].split(".")[0])))


def fused_blocks(unet: UNet2DConditionModel, fusion: str) -> dict[str, BasicTransformerBlock]:
    """The blocks whose self-attention reads the reference and follows the points."""
    blocks = {n: b for n, b in transformer_blocks(unet).items() if n.split(".")[0] in FUSED_STAGES[fusion]}
    if not blocks:
        raise InputError(f"system.points.fusion={fusion}: the UNet has no attention there; use full")
    return blocks


def block_level(name: str, levels: int) -> int:
    """How many downsamplers stand before block `name` of a UNet with `levels` resolutions."""
    stage, index = name.split(".")[:2]
    match stage:
        case "down_blocks":
            return int(index)
        case "up_blocks":
            return levels - 1 - int(index)
    return levels - 1


def point_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_reference: Tensor,
    v_reference: Tensor,
    points: tuple[Tensor, Tensor],
    heads: int,
    impl: Impl = "sdpa",
) -> Tensor:
    """softmax((q + t) [k + t ; k_reference + h]^T / sqrt(d)) [v ; v_reference], with (h, t) = points.

    All (B, L, C) -> (B, L, C). Heads are split after the additions; values carry no point term.
    """
    handle, target = points
    keys = torch.cat([k + target, k_reference + handle], dim=1)
    values = torch.cat([v, v_reference], dim=1)
    query, keys, values = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q + target, keys, values))
    return attention(query, keys, values, impl=impl).transpose(1, 2).flatten(2)


class PointAttention:
    """Self-attention of block `name`; the reference goes through the same key and value weights."""

    def __init__(self, name: str, impl: Impl):
        self.name, self.impl = name, impl

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: None = None,
        attention_mask: None = None,
        *,
        bank: Bank,
        points: PointTerms,
    ) -> Tensor:
        reference = bank[self.name]
        mixed = point_attention(
            attn.to_q(hidden_states),
            attn.to_k(hidden_states),
            attn.to_v(hidden_states),
            attn.to_k(reference),
            attn.to_v(reference),
            points[self.name],
            attn.heads,
            self.impl,
        )
        return attn.to_out[1](attn.to_out[0](mixed))


class PlainAttention(AttnProcessor2_0):
    """Self-attention of a block that is not fused."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: None = None,
        attention_mask: None = None,
        *,
        bank: Bank,
        points: PointTerms,
    ) -> Tensor:
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask)


class TextAndImageAttention(IPAdapterAttnProcessor2_0):
    """Cross-attention to (text, [image tokens]): two attentions of one query, summed (IP-Adapter)."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: tuple,
        attention_mask: None = None,
        *,
        bank: Bank,
        points: PointTerms,
    ) -> Tensor:
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask)


def install(unet: UNet2DConditionModel, fusion: str, image_tokens: int, impl: Impl) -> None:
    """Give every attention of the main UNet its processor."""
    fused = fused_blocks(unet, fusion)
    for name, block in transformer_blocks(unet).items():
        block.attn1.set_processor(PointAttention(name, impl) if name in fused else PlainAttention())
        block.attn2.set_processor(
            TextAndImageAttention(block.attn2.inner_dim, block.attn2.cross_attention_dim, num_tokens=(image_tokens,))
        )
