"""Keys of the multi-view boost system. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vstrain.config.schema import SystemConfig
from vstrain.config.strict import NonNegativeInt, PositiveFloat, PositiveInt, Probability, Strict
from vstrain.diffusion.config import Codec, Diffusion
from vstrain.nn.config import Text, Vision


class UNet(Strict):
    """The denoiser: a diffusers UNet2DConditionModel with linear projections."""

    channels: list[PositiveInt]  # one number a level, finest first
    attention: list[bool]  # which levels have attention
    layers: PositiveInt  # residual blocks a level on the way down
    head_width: PositiveInt
    norm_groups: PositiveInt
    from_scratch: bool  # how it begins, see vstrain.systems.multiview.network.build_unet; false: from a base model

    @model_validator(mode="after")
    def _levels_match(self):
        if len(self.channels) != len(self.attention):
            raise ValueError(
                f"unet.channels has {len(self.channels)} levels and unet.attention {len(self.attention)}:"
                " give both the same length"
            )
        for width in self.channels:
            if width % self.norm_groups or width % self.head_width:
                raise ValueError(
                    f"unet.channels: {width} must be a multiple of unet.norm_groups={self.norm_groups}"
                    f" and of unet.head_width={self.head_width}"
                )
        return self


class Resampler(Strict):
    """Perceiver resampler: features of one picture to a few tokens of the text encoder's width."""

    width: PositiveInt
    depth: PositiveInt
    heads: PositiveInt
    head_width: PositiveInt
    queries: PositiveInt


class Augment(Strict):
    """What makes true renders look like inconsistent generated views. View 0 is trusted and stays as it
    is."""

    drop: Probability  # of an object: only k ~ U{1..C} of its condition views stay
    noise: Probability  # of a view: noise of timestep U{0..noise_max} on its latent
    noise_max: NonNegativeInt
    distort: Probability  # of a view: grid distortion of strength U[0, distort_max]
    distort_max: Annotated[float, Field(ge=0, lt=1)]
    rescale: Probability  # of a view: down to a U[rescale_min, 1] share of its size, and up again
    rescale_min: Annotated[float, Field(gt=0, le=1)]
    jitter: Probability  # of a view: its pose code is off by up to jitter_degrees in azimuth and elevation
    jitter_degrees: Annotated[float, Field(ge=0)]
    colour: Probability  # of a view: brightness, gamma and hue are off by up to colour_range
    colour_range: Annotated[float, Field(ge=0, lt=1)]
    gray_background: Probability  # of an object: all its views stand before one random gray, else before white


class Dropout(Strict):
    """Which share of objects trains without its conditions (for classifier-free guidance). They exclude
    each other."""

    everything: Probability  # text, picture tokens, condition pictures and labels; pose codes stay
    text: Probability
    pictures: Probability  # picture tokens

    @model_validator(mode="after")
    def _shares_fit(self):
        if self.everything + self.text + self.pictures > 1:
            raise ValueError("dropout.everything + dropout.text + dropout.pictures must not be above 1")
        return self


class Sampling(Strict):
    steps: PositiveInt
    guidance: Annotated[float, Field(ge=0)]
    clip: PositiveFloat | None  # bound of the predicted clean latent; null: none


class Config(SystemConfig):
    size: PositiveInt  # views are brought to size x size pixels
    layout: Literal["instant3d4", "zero123pp6", "both"]  # condition views; both: one of the two, drawn by object
    targets: PositiveInt  # target views of an object in one step; they share the features of its condition views
    raw_noise_label: bool  # noise label 0..500 as in released weights, or divided by 500
    picture_tokens: Literal["first", "own"]  # every frame reads the tokens of condition view 0, or of itself
    attention: Literal["sdpa", "math", "xformers", "flex"]
    new_layer_lr_scale: PositiveFloat  # camera MLP, resampler and picture K/V learn at this times optim.lr
    diffusion: Diffusion
    codec: Codec
    unet: UNet
    text: Text
    vision: Vision
    resampler: Resampler
    augment: Augment
    dropout: Dropout
    sampling: Sampling

    @model_validator(mode="after")
    def _sizes_divide(self):
        step = self.codec.factor * 2 ** (len(self.unet.channels) - 1)
        if self.size % step:
            raise ValueError(
                f"size={self.size} must be a multiple of {step}: codec.factor and one halving a UNet level"
            )
        if self.augment.noise_max >= self.diffusion.timesteps:
            raise ValueError(
                f"augment.noise_max={self.augment.noise_max} must be below"
                f" diffusion.timesteps={self.diffusion.timesteps}"
            )
        return self
