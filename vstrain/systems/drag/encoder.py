"""The appearance encoder: a UNet that only looks, cut behind its last self-attention's normalised input."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn

from vstrain.systems.drag.attention import Bank, fused_blocks, transformer_blocks


class Collect(AttnProcessor2_0):
    """Self-attention that also puts its input into `bank`, under the block's name."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: None = None,
        attention_mask: None = None,
        *,
        bank: Bank,
    ) -> Tensor:
        bank[self.name] = hidden_states
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask)


class Plain(AttnProcessor2_0):
    """Any other attention."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        *,
        bank: Bank,
    ) -> Tensor:
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask)


class LastInput(nn.Module):
    """Stands where the last self-attention was: takes its input and computes nothing."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: None = None,
        attention_mask: None = None,
        *,
        bank: Bank,
    ) -> Tensor:
        bank[self.name] = hidden_states
        return hidden_states


class Passed(nn.Module):
    """Stands where a layer was that nothing reads."""

    def forward(self, x: Tensor, *others) -> Tensor:
        return x


def cut(unet: UNet2DConditionModel) -> None:
    """Drop, in place, everything that runs after the normalised input of the last self-attention, whatever
    the UNet's layout. What is left all takes part in that input, so no parameter stays without gradient."""
    name, block = list(transformer_blocks(unet).items())[-1]
    block.attn1, block.attn2 = LastInput(name), None
    block.norm2 = block.norm3 = block.ff = Passed()
    transformer = unet.get_submodule(name.rsplit(".transformer_blocks.", 1)[0])
    transformer.proj_out = Passed()
    unet.conv_norm_out, unet.conv_out = None, Passed()
    stage, index = name.split(".")[:2]
    if stage == "up_blocks":
        unet.up_blocks = unet.up_blocks[: int(index) + 1]
        unet.up_blocks[-1].upsamplers = None
        return
    unet.up_blocks = nn.ModuleList()
    if stage == "mid_block":
        unet.mid_block.resnets[-1] = Passed()
        return
    unet.mid_block = None
    unet.down_blocks = unet.down_blocks[: int(index) + 1]
    unet.down_blocks[-1].downsamplers = None


class AppearanceEncoder(nn.Module):
    """`unet`: a twin of the main UNet, taken over: cut, with `channels` input channels."""

    def __init__(self, unet: UNet2DConditionModel, channels: int, fusion: str):
        super().__init__()
        fused = fused_blocks(unet, fusion)
        for name, block in transformer_blocks(unet).items():
            block.attn1.set_processor(Collect(name) if name in fused else Plain())
            block.attn2.set_processor(Plain())
        _narrow_input(unet, channels)
        cut(unet)
        self.unet = unet

    def forward(self, latent: Tensor, text: Tensor) -> Bank:
        """Clean source latent (B, C, h, w), text (B, L, D) -> the normalised input of every fused block."""
        bank = Bank()
        clean = torch.zeros(len(latent), dtype=torch.int64, device=latent.device)
        self.unet(latent, clean, text, cross_attention_kwargs={"bank": bank})
        return bank


def _narrow_input(unet: UNet2DConditionModel, channels: int) -> None:
    """Keep the weights of the first `channels` input channels."""
    wide = unet.conv_in
    narrow = nn.Conv2d(channels, wide.out_channels, wide.kernel_size, padding=wide.padding)
    with torch.no_grad():
        narrow.weight.copy_(wide.weight[:, :channels])
        narrow.bias.copy_(wide.bias)
    unet.conv_in = narrow
    unet.register_to_config(in_channels=channels)
