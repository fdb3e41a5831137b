"""Keys of the drag editor (`system.*`). Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vstrain.config.schema import SystemConfig
from vstrain.config.strict import NonNegativeInt, PositiveFloat, PositiveInt, Probability, Strict
from vstrain.diffusion.config import Codec, Diffusion

NonNegative = Annotated[float, Field(ge=0)]


class UNet(Strict):
    """The inpainting UNet, which also gives the appearance encoder its layout and first weights."""

    path: str | None  # folder of a 9-channel UNet (diffusers layout); null: random weights
    channels: list[PositiveInt]  # per resolution
    attention: list[bool]  # which resolutions have transformer blocks
    layers: PositiveInt  # residual blocks per resolution
    heads: PositiveInt
    norm_groups: PositiveInt

    @model_validator(mode="after")
    def _widths_divide(self) -> UNet:
        if len(self.channels) != len(self.attention):
            raise ValueError(
                f"unet.attention has {len(self.attention)} entries for {len(self.channels)} channels:"
                " give one for every resolution"
            )
        for key in ("heads", "norm_groups"):
            if any(width % getattr(self, key) for width in self.channels):
                raise ValueError(f"unet.{key}={getattr(self, key)} does not divide unet.channels={self.channels}")
        return self


class Points(Strict):
    """How handles and targets enter. A trained model reads only the encoding that it was trained with."""

    embed_dim: PositiveInt
    fusion: Literal["full", "midup", "up"]  # blocks that read the reference
    ids: Literal["raw", "normalised", "sinusoidal"]
    permute_ids: bool  # number the pairs at random in training
    radius: NonNegativeInt  # of the drawn discs in pixels; 0: single pixels


class Text(Strict):
    """The empty prompt, the only text there is."""

    path: str | None  # folder with tokenizer/ and text_encoder/ of CLIP; null: a fixed stand-in
    length: PositiveInt
    width: PositiveInt


class Image(Strict):
    """Image prompt: CLIP's picture tower and the IP-Adapter's projection to a few tokens."""

    path: str | None  # folder of a CLIPVisionModelWithProjection; null: a frozen stand-in
    adapter: str | None  # IP-Adapter weights (.bin or .safetensors) for the UNet above; null: random
    size: PositiveInt  # side of the tower's picture, pixels
    patch: PositiveInt
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    embedding: PositiveInt  # width of the tower's projected answer
    tokens: PositiveInt


class Sampling(Strict):
    steps: PositiveInt
    prior: Literal["noise", "noised_source"]  # what the first latent is
    prior_t: Literal["last", "first_timestep"]  # noise level of `noised_source`
    spacing: Literal["leading", "trailing"]  # of the sampler's timesteps
    clip: PositiveFloat | None  # bound of a predicted clean latent
    guidance: PositiveFloat  # on the points alone; 1: no guidance
    guidance_schedule: Literal["none", "linear", "square", "quadratic", "inv_square"]
    candidates: PositiveInt  # results of one edit


class Config(SystemConfig):
    size: PositiveInt  # side of the square picture, pixels
    crop_margin: NonNegative  # around the box of points and mask, share of its side; training jitters it
    crop_min: Annotated[float, Field(gt=0, le=1)]  # smallest crop, share of the picture's short side
    flip: Probability
    codec: Codec
    diffusion: Diffusion
    unet: UNet
    points: Points
    text: Text
    image: Image
    attention: Literal["sdpa", "math", "xformers", "flex"]  # see vstrain.nn.attention
    train_unet: bool  # false: the UNet and the IP-Adapter stay as loaded
    point_drop: Probability  # samples trained without points: guidance needs the null branch
    image_drop: Probability  # samples trained without image prompt
    mask_loss_weight: PositiveFloat  # of an error inside the mask, against 1 outside
    sampling: Sampling
    pictures: PositiveInt  # rows of the validation picture

    @model_validator(mode="after")
    def _size_divides(self) -> Config:
        step = self.codec.factor * 2 ** (len(self.unet.channels) - 1)
        if self.size % step:
            raise ValueError(f"size={self.size}: this codec and UNet need a multiple of {step}")
        if self.codec.factor & (self.codec.factor - 1):
            raise ValueError(f"codec.factor={self.codec.factor}: the point network needs a power of two")
        return self
