"""Keys of the story motion system."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vstrain.config.schema import SystemConfig
from vstrain.config.strict import PositiveFloat, PositiveInt, Probability, Strict
from vstrain.diffusion.config import Codec, Diffusion
from vstrain.nn.config import Text, Vision
from vstrain.systems.story.config import Sampling, Unet


class Predictor(Strict):
    """The semantic motion predictor. heads x head_dim need not be width."""

    input: Literal["patch", "pooled"]  # resample all image tokens, or widen the class token
    tokens: PositiveInt  # of one frame
    width: PositiveInt
    heads: PositiveInt
    head_dim: PositiveInt
    layers: PositiveInt
    resampler_layers: PositiveInt


class Motion(Strict):
    """Temporal modules of the video UNet."""

    heads: PositiveInt
    max_frames: PositiveInt  # length of the frame code
    middle: bool  # one in the middle block, too


class Config(SystemConfig):
    size: PositiveInt  # pixels of a side
    frames: Annotated[int, Field(ge=3)]  # L: frames of a clip, both given ends included
    fps: PositiveFloat  # frames a second of a clip; a shorter shot is taken whole
    fps_jitter: Annotated[float, Field(ge=0, lt=1)]  # fps is drawn from fps * (1 -+ jitter) in training
    layout: Literal["semantic", "ends-zero", "ends-mask"]  # what the UNet sees of the two given frames
    injection: Literal["concat", "decoupled"]  # how cross-attention reads the predicted tokens
    drop: Probability  # for guidance: this share drops the text, as many the images, as many both
    image_unet: str | None  # folder with a trained image UNet (diffusers layout) to start from
    train_spatial: bool  # false: only predictor, temporal modules and new layers are trained
    text: Text
    vision: Vision
    codec: Codec
    diffusion: Diffusion
    unet: Unet
    motion: Motion
    predictor: Predictor
    sampling: Sampling
    attention: Literal["sdpa", "math", "xformers", "flex"] = "sdpa"  # of decoupled injection, see vstrain.nn.attention

    @model_validator(mode="after")
    def _fits(self):
        step = self.codec.factor * self.unet.stride
        if self.size % step:
            raise ValueError(f"size={self.size} must be a multiple of codec.factor x UNet stride = {step}")
        if self.frames > self.motion.max_frames:
            raise ValueError(f"frames={self.frames} must be at most motion.max_frames={self.motion.max_frames}")
        if 3 * self.drop > 1:
            raise ValueError(f"drop={self.drop} must be at most 1/3: three kinds are dropped this often")
        return self
