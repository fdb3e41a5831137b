"""The parts that exist outside: inpainting UNet, empty prompt, CLIP picture tower, IP-Adapter.

Each is read from a folder of the user's, or stands there with random weights where none is given. Under the
meta device nothing is read: only the shapes are built.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import ImageProjection
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from vstrain.config.problems import InputError
from vstrain.data import keyed
from vstrain.systems.drag.config import Config, Image, Text

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def on_meta() -> bool:
    return torch.get_default_device().type == "meta"


def folder(key: str, path: str, what: str) -> Path:
    if not (Path(path) / "config.json").is_file():
        raise InputError(f"{key}={path}: expected a folder with config.json and the weights of a {what}")
    return Path(path)


def load_unet(config: Config) -> UNet2DConditionModel:
    """An inpainting UNet: latents, mask, masked-source latents in that order."""
    c = config.unet
    if c.path is not None and not on_meta():
        found = folder("system.unet.path", c.path, "UNet2DConditionModel (diffusers layout)")
        return UNet2DConditionModel.from_pretrained(found, local_files_only=True)
    if not config.train_unet and not on_meta():
        raise InputError(
            "system.train_unet=false needs trained weights: set system.unet.path to the unet folder of a"
            " Stable Diffusion 1.5 inpainting model (diffusers layout)"
        )
    return UNet2DConditionModel(
        in_channels=2 * config.codec.channels + 1,
        out_channels=config.codec.channels,
        block_out_channels=c.channels,
        down_block_types=["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in c.attention],
        up_block_types=["CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(c.attention)],
        layers_per_block=c.layers,
        attention_head_dim=c.heads,  # diffusers' name for the number of heads
        norm_num_groups=c.norm_groups,
        cross_attention_dim=config.text.width,
    )


def empty_text(config: Text) -> Tensor:
    """Last hidden states of the empty prompt, (1, length, width)."""
    if on_meta():
        return torch.empty(1, config.length, config.width)
    if config.path is None:
        return keyed.normal(torch.zeros(1, dtype=torch.int64), (config.length, config.width), "empty_text")
    found = folder("system.text.path/text_encoder", str(Path(config.path) / "text_encoder"), "CLIPTextModel")
    tokenizer = CLIPTokenizer.from_pretrained(found.parent / "tokenizer", local_files_only=True)
    ids = tokenizer("", padding="max_length", max_length=config.length, return_tensors="pt").input_ids
    with torch.no_grad():
        return CLIPTextModel.from_pretrained(found, local_files_only=True)(ids).last_hidden_state


class ImageEncoder(nn.Module):
    """Picture -> image tokens: a frozen CLIP tower and the IP-Adapter's projection."""

    def __init__(self, config: Image, width: int):
        super().__init__()
        self.size = config.size
        self.tower = self._tower(config).requires_grad_(False)
        self.project = ImageProjection(config.embedding, width, config.tokens)
        self.register_buffer("mean", torch.tensor(CLIP_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD).view(3, 1, 1), persistent=False)

    @staticmethod
    def _tower(config: Image) -> CLIPVisionModelWithProjection:
        if config.path is not None and not on_meta():
            found = folder("system.image.path", config.path, "CLIPVisionModelWithProjection")
            return CLIPVisionModelWithProjection.from_pretrained(found, local_files_only=True)
        return CLIPVisionModelWithProjection(CLIPVisionConfig(
            image_size=config.size, patch_size=config.patch, hidden_size=config.width,
            intermediate_size=4 * config.width, num_hidden_layers=config.layers,
            num_attention_heads=config.heads, projection_dim=config.embedding, hidden_act="gelu",
        ))  # fmt: skip

    def train(self, mode: bool = True):
        super().train(mode)
        self.tower.eval()
        return self

    def forward(self, picture: Tensor, keep: Tensor) -> Tensor:
        """RGB (B, 3, H, W) in [-1, 1], keep (B,) bool -> (B, tokens, width); a dropped picture is zero."""
        with torch.no_grad():
            resized = F.interpolate((picture + 1) / 2, (self.size, self.size), mode="bicubic", antialias=True)
            embedding = self.tower((resized - self.mean) / self.std).image_embeds
        return self.project(embedding * keep[:, None])


def load_adapter(path: str, project: ImageProjection, unet: UNet2DConditionModel) -> None:
    """IP-Adapter weights in their published layout: image_proj.{proj,norm}.* and
    ip_adapter.N.to_{k,v}_ip.weight, where N = 1, 3, 5, ... counts the UNet's cross-attentions as diffusers
    lists them (down, up, mid)."""
    state = _adapter_state(path)
    processors = [p for name, p in unet.attn_processors.items() if name.endswith("attn2.processor")]
    try:
        project.load_state_dict({
            name.replace("proj", "image_embeds"): state["image_proj." + name]
            for name in ("proj.weight", "proj.bias", "norm.weight", "norm.bias")
        })  # fmt: skip
        for number, processor in zip(range(1, 2 * len(processors), 2), processors, strict=True):
            processor.load_state_dict({
                f"to_{kind}_ip.0.weight": state[f"ip_adapter.{number}.to_{kind}_ip.weight"] for kind in "kv"
            })  # fmt: skip
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"system.image.adapter={path}: not the weights of an IP-Adapter for this UNet ({error})"
        ) from error


def _adapter_state(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise InputError(
            f"system.image.adapter={path}: no such file; expected IP-Adapter weights (.bin or .safetensors)"
        )
    if path.endswith(".safetensors"):
        return load_file(path)
    parts = torch.load(path, map_location="cpu", weights_only=True)
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
