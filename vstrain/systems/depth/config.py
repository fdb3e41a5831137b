"""Keys of the depth system (`system.*`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vstrain.config.schema import PositiveFloat, PositiveInt, Probability, Strict, SystemConfig

PATCH = 14  # side of a DINOv2 patch in pixels


class Loss(Strict):
    align: Literal["median_mad", "least_squares"]  # how scale and shift are taken out of both maps
    rho: Literal["mae", "mse", "trimmed_mae"]  # what a residual costs
    gradient_weight: Annotated[float, Field(ge=0)]  # of the gradient matching term, beside 1 for the residual term


class Perturb(Strict):
    """Changes of training pictures, made on the device (see vstrain.nn.augment)."""

    jitter: Probability  # of a change of colours
    brightness: Annotated[float, Field(ge=0)]  # a factor from 1 - x to 1 + x, as contrast and saturation
    contrast: Annotated[float, Field(ge=0)]
    saturation: Annotated[float, Field(ge=0)]
    hue: Annotated[float, Field(ge=0, le=0.5)]  # a turn of the colour circle, 1 is the whole
    blur: Probability
    sigma: tuple[PositiveFloat, PositiveFloat]  # pixels


class Config(SystemConfig):
    size: Literal["tiny", "vits", "vitb", "vitl", "vitg"]  # encoder and head widths, see network.SIZES
    version: Literal["v1", "v2"]  # which blocks the head reads: the last four, or four spread over the depth
    output: Literal["relative", "metric"]  # disparity of free scale and shift, or metres
    max_depth: PositiveFloat | None  # metric: metres at which the output ends (published: 20 indoor, 80 outdoor)
    pos_embed: Literal["official", "hf"]  # resampling of the position table at sizes other than its own
    init: str  # "random", or a DINOv2 checkpoint (.pth, .safetensors or a Hugging Face folder) for the encoder
    image_size: Annotated[int, Field(gt=0, multiple_of=PATCH)]  # side of the training crop, pixels
    predict_size: Annotated[int, Field(gt=0, multiple_of=PATCH)] | None  # short side in predict; null: image_size
    antialias: bool  # average areas before a photo is shrunk more than twofold (published: false)
    sky: Literal["far", "ignore"]  # far: known sky has disparity 0 and enters the loss; ignore: it is invalid
    flip: Probability  # of a horizontal flip
    perturb: Perturb | None  # null leaves pictures as they are
    head_lr_scale: PositiveFloat  # learning rate of everything but the encoder, times optim.lr
    loss: Loss
    depth_cap: PositiveFloat  # metres: scores floor aligned disparity at 1 / cap and leave farther pixels out
    pictures: PositiveInt  # rows of the validation picture

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if (self.output == "metric") != (self.max_depth is not None):
            raise ValueError(
                f"system.output={self.output} with system.max_depth={self.max_depth}: metric output needs the metres at which "
                "it ends (20 indoor, 80 outdoor), relative output has none"
            )
        if self.version == "v1" and self.size == "vitg":
            raise ValueError("size=vitg exists in version v2 only: set version=v2 or another size")
        return self
