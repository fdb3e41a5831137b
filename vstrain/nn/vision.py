"""Frozen image encoders: pictures to the tokens that describe them."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from vstrain.config.problems import InputError
from vstrain.nn.config import Vision

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class VisionEncoder(nn.Module):
    """CLIP's vision transformer, always frozen.

    forward: pixels (B, 3, H, W) in [-1, 1] -> hidden states (B, 1 + patches, width), the class token first.
    layer: which hidden states, -1 the last.
    """

    def __init__(self, config: Vision, layer: int = -1):
        super().__init__()
        self.size, self.layer = config.size, layer
        shape = CLIPVisionConfig(
            image_size=config.size,
            patch_size=config.patch,
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            projection_dim=config.width,
            hidden_act="gelu",
        )
        if config.name == "random" or torch.get_default_device().type == "meta":
            self.model = CLIPVisionModel(shape)
        elif config.path is None or not (Path(config.path) / "config.json").is_file():
            raise InputError(
                f"vision.path={config.path}: expected a folder with a CLIP vision model"
                " (transformers layout); set it, or use vision.name=random"
            )
        else:
            self.model = CLIPVisionModel.from_pretrained(config.path, local_files_only=True)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True):
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        mean, std = (pixels.new_tensor(x)[:, None, None] for x in (CLIP_MEAN, CLIP_STD))
        side = (self.size, self.size)
        resized = F.interpolate(pixels, side, mode="bicubic", antialias=True, align_corners=False)
        normalised = ((resized + 1) / 2 - mean) / std
        return self.model(pixel_values=normalised, output_hidden_states=True).hidden_states[self.layer]
