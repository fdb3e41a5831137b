"""The multi-view-conditioned denoiser (spec section 4): one Stable-Diffusion-type UNet over target and
condition frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from torch import Tensor, nn

from vstrain.nn.attention import require
from vstrain.nn.text import TextEncoder
from vstrain.nn.vision import VisionEncoder
from vstrain.systems.multiview.attention import Bank, Frames, PictureAttention, install
from vstrain.systems.multiview.cameras import CODE_WIDTH
from vstrain.systems.multiview.config import Config
from vstrain.systems.multiview.objective import Conditions


@dataclass(frozen=True)
class Context:
    """What every call of the UNet reads, computed once for a set of conditions."""

    text: Tensor  # (B, L, D)
    picture_tokens: Tensor  # (B, T + C, M, D)


class MultiviewUNet(nn.Module):
    """`context` embeds text and pictures, `forward` denoises the target views."""

    def __init__(self, config: Config):
        super().__init__()
        require(config.attention)
        self.picture_tokens = config.picture_tokens
        self.unet = build_unet(config)
        self.text_encoder = TextEncoder(config.text)
        self.vision_encoder = VisionEncoder(config.vision, layer=-2)  # the second to last, spec section 4.3
        self.resampler = IPAdapterPlusImageProjection(
            embed_dims=config.vision.width,
            output_dims=config.text.width,
            hidden_dims=config.resampler.width,
            depth=config.resampler.depth,
            dim_head=config.resampler.head_width,
            heads=config.resampler.heads,
            num_queries=config.resampler.queries,
        )

    def new_layers(self) -> list[nn.Module]:
        """What a multi-view base model does not have: camera MLP, resampler, picture keys and values."""
        pictures = [module for module in self.unet.modules() if isinstance(module, PictureAttention)]
        return [self.unet.class_embedding, self.resampler, *pictures]

    def features(self, pictures: Tensor) -> Tensor:
        """Condition pictures (B, C, 3, H, W) in [-1, 1] -> frozen features (B, V, P, D), V = 1 or C."""
        chosen = pictures[:, :1] if self.picture_tokens == "first" else pictures
        return self.vision_encoder(chosen.flatten(0, 1)).unflatten(0, chosen.shape[:2])

    def context(self, conditions: Conditions) -> Context:
        """Targets copy the tokens of condition view 0; condition frames have them too, or their own
        (picture_tokens)."""
        views, targets = conditions.features.shape[1], conditions.targets
        tokens = self.resampler(conditions.features.flatten(0, 1)).unflatten(0, (-1, views))
        frames = conditions.latents.shape[1] if views == 1 else 1
        first = tokens[:, :1].expand(-1, targets + frames - 1, -1, -1)
        return Context(self.text_encoder(conditions.ids), torch.cat([first, tokens], dim=1))

    def forward(
        self, noisy: Tensor, t: Tensor, conditions: Conditions, context: Context, bank: Bank | None = None
    ) -> Tensor:
        """Noisy target latents (B, T, c, h, w) at t (B, T) -> the network's answer for them, same shape.

        Condition frames stand at timestep 0 whatever t is, so what they contribute does not depend on the
        step: an empty `bank` is filled by the call, and later calls with the same conditions, which read
        it, run on the targets alone.
        """
        targets = noisy.shape[1]
        frames, times, present = noisy, t, conditions.present
        if not bank:
            frames = torch.cat([noisy, conditions.latents], dim=1)
            times = torch.cat([t, torch.zeros_like(present, dtype=t.dtype)], dim=1)
        rows = frames.shape[1]
        tokens = context.picture_tokens[:, :rows].flatten(0, 1)
        answer = self.unet(
            frames.flatten(0, 1),
            times.flatten(),
            context.text.repeat_interleave(rows, dim=0),
            class_labels=conditions.code[:, :rows].flatten(0, 1),
            cross_attention_kwargs={"frames": Frames(targets, rows - targets, present, tokens, bank)},
        ).sample
        return answer.unflatten(0, (-1, rows))[:, :targets]


def build_unet(config: Config) -> UNet2DConditionModel:
    """A diffusers UNet with a camera MLP (its `class_embedding`, added to the time embedding) and the processors of
    vstrain.systems.multiview.attention.

    From a base model the new layers begin at zero: at step 0 each frame gets exactly what the base model gives it,
    apart from what targets read in condition frames. `from_scratch` they begin large enough to be read.
    """
    shape = config.unet
    kinds = ["CrossAttn" if attention else "" for attention in shape.attention]
    unet = UNet2DConditionModel(
        sample_size=config.size // config.codec.factor,
        in_channels=config.codec.channels,
        out_channels=config.codec.channels,
        block_out_channels=shape.channels,
        layers_per_block=shape.layers,
        down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
        up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
        attention_head_dim=[width // shape.head_width for width in shape.channels],  # diffusers calls heads so
        cross_attention_dim=config.text.width,
        norm_num_groups=shape.norm_groups,
        use_linear_projection=True,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=CODE_WIDTH,
    )
    install(unet, config.attention)
    if shape.from_scratch:
        _begin_with_resemblance(unet)
    else:
        nn.init.zeros_(unet.class_embedding.linear_2.weight)
        nn.init.zeros_(unet.class_embedding.linear_2.bias)
    return unet


@torch.no_grad()
def _begin_with_resemblance(unet: UNet2DConditionModel) -> None:
    """Ours, for training from scratch: self-attention begins with queries equal to keys, of unit variance, and pose
    embeddings as large as other features. So targets first read equal places in views from near poses, which training
    would otherwise have to find by chance."""
    camera = unet.class_embedding
    nn.init.normal_(camera.linear_1.weight)
    nn.init.normal_(camera.linear_2.weight, std=2 * camera.linear_2.in_features**-0.5)
    for name, module in unet.named_modules():
        if name.endswith("attn1"):
            nn.init.normal_(module.to_q.weight, std=module.to_q.in_features**-0.5)
            module.to_k.weight.copy_(module.to_q.weight)
