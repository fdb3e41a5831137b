"""Latent codecs: pixels (B, 3, H, W) in [-1, 1] <-> latents (B, channels, H / factor, W / factor).

All are frozen and scale to a variance of about 1. `identity` and `space_to_depth` are exact and need no
weights (pixel-space training at demo scale); `autoencoder_kl` is the autoencoder of Stable Diffusion.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from vstrain.config.problems import InputError
from vstrain.data import keyed
from vstrain.diffusion.config import Codec

STABLE_DIFFUSION_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}


class SpaceToDepth(nn.Module):
    """factor x factor pixels become channels; factor 1 is the identity. Latents lie in [-limit, limit]."""

    def __init__(self, factor: int, scale: float):
        super().__init__()
        self.factor, self.scale, self.limit = factor, scale, scale

    def encode(self, pixels: Tensor, keys: Tensor | None = None) -> Tensor:
        return F.pixel_unshuffle(pixels, self.factor) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(latents / self.scale, self.factor)


class KLCodec(nn.Module):
    """`encode` draws from the posterior, keyed by `keys` (B,), or takes its mean when there are none."""

    def __init__(self, autoencoder: AutoencoderKL, scale: float):
        super().__init__()
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.scale, self.limit = scale, None

    def train(self, mode: bool = True):
        return super().train(False)

    @torch.no_grad()
    def encode(self, pixels: Tensor, keys: Tensor | None = None) -> Tensor:
        posterior = self.autoencoder.encode(pixels).latent_dist
        latents = posterior.mean
        if keys is not None:
            noise = keyed.normal(keys, tuple(latents.shape[1:]), "posterior")
            latents = latents + posterior.std * noise.to(latents)
        return latents * self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents / self.scale).sample


def build_codec(config: Codec) -> nn.Module:
    """The codec that `config` names. Under the meta device an autoencoder is only its shape; elsewhere its
    weights are read from `config.path`, and an InputError says what is missing."""
    if config.name != "autoencoder_kl":
        return SpaceToDepth(config.factor, config.scale)
    if torch.get_default_device().type == "meta":
        return KLCodec(AutoencoderKL(**STABLE_DIFFUSION_VAE), config.scale)
    if config.path is None or not (Path(config.path) / "config.json").is_file():
        raise InputError(
            f"codec.path={config.path}: expected a folder with config.json and the weights of an"
            " AutoencoderKL (diffusers layout); set it, or use codec.name=space_to_depth"
        )
    return KLCodec(AutoencoderKL.from_pretrained(config.path, local_files_only=True), config.scale)
