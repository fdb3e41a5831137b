"""The frozen picture encoder whose features the resampler turns into picture tokens (spec section 4.3)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from vstrain.config.problems import InputError
from vstrain.systems.multiview.config import Vision

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class VisionEncoder(nn.Module):
    """forward: pictures (B, 3, H, W) in [-1, 1] -> second-to-last hidden states (B, 1 + (size / patch)^2,
    width)."""

    def __init__(self, config: Vision):
        super().__init__()
        self.size = config.size
        if config.name == "tiny" or torch.get_default_device().type == "meta":
            self.model = CLIPVisionModel(
                CLIPVisionConfig(
                    image_size=config.size,
                    patch_size=config.patch,
                    hidden_size=config.width,
                    intermediate_size=4 * config.width,
                    num_hidden_layers=config.layers,
                    num_attention_heads=config.heads,
                    hidden_act="gelu",
                )
            )
        elif config.path is None or not (Path(config.path) / "config.json").is_file():
            raise InputError(
                f"vision.path={config.path}: expected a folder with a CLIP vision model (transformers"
                " layout); set it, or use vision.name=tiny"
            )
        else:
            self.model = CLIPVisionModel.from_pretrained(config.path, local_files_only=True)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True):
        return super().train(False)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        shape = (self.size, self.size)
        pictures = F.interpolate(pictures, shape, mode="bicubic", antialias=True, align_corners=False)
        mean, std = (pictures.new_tensor(x).view(3, 1, 1) for x in (CLIP_MEAN, CLIP_STD))
        normalised = ((pictures + 1) / 2 - mean) / std
        return self.model(pixel_values=normalised, output_hidden_states=True).hidden_states[-2]
