"""The video UNet: the image UNet, temporal modules, a condition on both end frames, and the predicted tokens."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel, UNetMotionModel
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn

from vstrain.config.problems import InputError
from vstrain.nn.attention import Impl, attention
from vstrain.systems.story.motion.config import Config
from vstrain.systems.story.unet import block_types

SPATIAL_CROSS = r"\.attentions\.\d+\.transformer_blocks\.\d+\.attn2$"  # temporal modules are motion_modules.N


class Decoupled(nn.Module):
    """A cross-attention processor with keys and values of its own for the image tokens, which stand behind
    the first `text_length` states: text attention + scale * image attention. Values are zero at first."""

    def __init__(self, layer: Attention, text_length: int, state_width: int, impl: Impl = "sdpa", scale: float = 1.0):
        super().__init__()
        inner = layer.to_q.out_features
        self.text_length, self.impl, self.scale = text_length, impl, scale
        self.to_k = nn.Linear(state_width, inner, bias=False)
        self.to_v = nn.Linear(state_width, inner, bias=False)
        nn.init.zeros_(self.to_v.weight)

    def forward(
        self, layer: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask=None
    ) -> Tensor:
        text, image = encoder_hidden_states.split(
            [self.text_length, encoder_hidden_states.shape[1] - self.text_length], dim=1
        )

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(2, (layer.heads, -1)).transpose(1, 2)

        q = heads(layer.to_q(hidden_states))
        out = attention(q, heads(layer.to_k(text)), heads(layer.to_v(text)), impl=self.impl)
        out = out + self.scale * attention(q, heads(self.to_k(image)), heads(self.to_v(image)), impl=self.impl)
        return layer.to_out[1](layer.to_out[0](out.transpose(1, 2).flatten(2)))


class VideoUnet(nn.Module):
    """Frame l reads the text and its own motion tokens only. With decoupled injection, a video UNet that was
    never trained gives every frame what its image UNet gives."""

    def __init__(self, config: Config):
        super().__init__()
        self.layout = config.layout
        channels = config.codec.channels
        extra = {"semantic": 0, "ends-zero": channels, "ends-mask": channels + 1}[config.layout]
        down, up = block_types(config.unet, "Motion")
        self.unet = UNetMotionModel(
            in_channels=channels + extra,
            out_channels=channels,
            down_block_types=down,
            up_block_types=up,
            block_out_channels=tuple(config.unet.channels),
            layers_per_block=config.unet.layers,
            num_attention_heads=config.unet.heads,
            norm_num_groups=config.unet.groups,
            cross_attention_dim=config.text.width,
            motion_num_attention_heads=config.motion.heads,
            motion_max_seq_length=config.motion.max_frames,
            use_motion_mid_block=config.motion.middle,
        )
        self.project = nn.Linear(config.predictor.width, config.text.width)
        if config.layout == "ends-mask":
            self.gap = nn.Parameter(torch.zeros(channels, 1, 1, 1))
        if config.injection == "decoupled":
            self._install_decoupled(config)
        self._start_as_image_unet(channels)
        if torch.get_default_device().type == "meta":
            return
        if config.image_unet is not None:
            self.load_image_unet(Path(config.image_unet))
        elif not config.train_spatial:
            raise InputError(
                "train_spatial=false keeps the image UNet as it is, so image_unet must name the"
                " folder of a trained one (diffusers layout)"
            )

    def _install_decoupled(self, config: Config) -> None:
        for name, layer in self.unet.named_modules():
            if isinstance(layer, Attention) and re.search(SPATIAL_CROSS, name):
                layer.set_processor(Decoupled(layer, config.text.length, config.text.width, config.attention))

    def _start_as_image_unet(self, channels: int) -> None:
        """Zero what is new: the last layer of temporal modules, and the filters of the new input channels."""
        for module in self.unet.modules():
            if isinstance(module, AnimateDiffTransformer3D):
                nn.init.zeros_(module.proj_out.weight)
                nn.init.zeros_(module.proj_out.bias)
        with torch.no_grad():
            self.unet.conv_in.weight[:, channels:].zero_()

    def load_image_unet(self, folder: Path) -> None:
        """Take the spatial weights of a UNet2DConditionModel; ValueError when it does not fit."""
        if not (folder / "config.json").is_file():
            raise InputError(
                f"image_unet={folder}: expected a folder with config.json and the weights of an"
                " image UNet (diffusers layout), as `vstrain export` writes it for story_image"
            )
        weights = UNet2DConditionModel.from_pretrained(folder, local_files_only=True).state_dict()
        own = self.unet.state_dict()
        own["conv_in.weight"] = own["conv_in.weight"][:, : self.unet.config.out_channels]
        if wrong := [name for name, w in weights.items() if name not in own or own[name].shape != w.shape]:
            raise InputError(f"image_unet={folder}: {wrong[0]} does not fit the UNet of system.unet")
        with torch.no_grad():
            for name, weight in weights.items():
                own[name].copy_(weight)

    def freeze_spatial(self) -> None:
        """Train only temporal modules, decoupled projections and, where it reads the ends, conv_in."""
        for name, parameter in self.unet.named_parameters():
            new = "motion_modules" in name or ".processor." in name
            parameter.requires_grad_(new or (name == "conv_in.weight" and self.layout != "semantic"))

    def condition(self, x: Tensor, ends: Tensor) -> Tensor:
        """The extra input channels (B, extra, L, h, w) of the layouts ends-zero and ends-mask."""
        batch, channels, frames, *side = x.shape
        middle = x.new_zeros(batch, channels, frames - 2, *side)
        if self.layout == "ends-mask":
            middle = middle + self.gap
        given = torch.cat([ends[:, :, :1], middle, ends[:, :, 1:]], dim=2)
        if self.layout == "ends-zero":
            return given
        mask = x.new_zeros(batch, 1, frames, *side)
        mask[:, :, [0, -1]] = 1
        return torch.cat([given, mask], dim=1)

    def forward(self, x: Tensor, t: Tensor, text: Tensor, motion: Tensor, ends: Tensor, told: Tensor) -> Tensor:
        """x (B, C, L, h, w), t (B,), text (B, n, width), motion (B, L, m, predictor width) and
        ends (B, C, 2, h, w) -> (B, C, L, h, w). told (B,) bool: where False, motion and ends are zero."""
        frames = x.shape[2]
        motion = self.project(motion) * told[:, None, None, None]
        states = torch.cat([text.repeat_interleave(frames, dim=0), motion.flatten(0, 1)], dim=1)
        if self.layout != "semantic":
            x = torch.cat([x, self.condition(x, ends) * told[:, None, None, None, None]], dim=1)
        return self.unet(x, t, states).sample
