"""The spatial UNet of both story systems: Stable Diffusion's, at any size."""

from __future__ import annotations

from diffusers import UNet2DConditionModel

from vstrain.systems.story.config import Unet


def build_unet(config: Unet, channels: int, text_width: int) -> UNet2DConditionModel:
    """`channels` are those of a latent, in and out; `text_width` that of the text states."""
    down, up = block_types(config)
    return UNet2DConditionModel(
        in_channels=channels,
        out_channels=channels,
        down_block_types=down,
        up_block_types=up,
        block_out_channels=tuple(config.channels),
        layers_per_block=config.layers,
        attention_head_dim=config.heads,  # diffusers' name for the number of heads
        norm_num_groups=config.groups,
        cross_attention_dim=text_width,
    )


def block_types(config: Unet, suffix: str = "2D") -> tuple[tuple[str, ...], tuple[str, ...]]:
    """diffusers' names of the down and up blocks; `suffix` tells the image UNet (2D) from the video UNet
    (Motion)."""
    kinds = ["CrossAttn{}Block" if here else "{}Block" for here in config.transformers]
    down = tuple(kind.format("Down") + suffix for kind in kinds)
    up = tuple(kind.format("Up") + suffix for kind in reversed(kinds))
    return down, up
