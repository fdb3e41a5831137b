"""Keys of the story image system."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from vstrain.config.schema import SystemConfig
from vstrain.config.strict import PositiveInt, Probability, Strict
from vstrain.diffusion.config import Codec, Diffusion
from vstrain.nn.config import Text
from vstrain.systems.story.config import Sampling, Unet


class Csa(Strict):
    """Consistent self-attention (see vstrain.systems.story.attention)."""

    rate: Probability  # share of an image's tokens that the others may read; 0 turns it off
    sampler: Literal["fixed", "bernoulli"]
    layers: str  # regular expression: names of the self-attention layers that share
    kernel: Literal["sdpa", "math", "xformers", "flex"]


class Config(SystemConfig):
    size: PositiveInt  # pixels of a side
    images: PositiveInt  # pictures of one story in a sample, each from another shot where there are enough
    caption_drop: Probability  # stories trained without captions, for guidance
    text: Text
    codec: Codec
    diffusion: Diffusion
    unet: Unet
    csa: Csa
    sampling: Sampling

    @model_validator(mode="after")
    def _size_fits(self):
        step = self.codec.factor * self.unet.stride
        if self.size % step:
            raise ValueError(f"size={self.size} must be a multiple of codec.factor x UNet stride = {step}")
        return self
