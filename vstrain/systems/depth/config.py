"""Keys of the depth system (`system.*`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vstrain.config.schema import SystemConfig
from vstrain.config.strict import NonNegativeInt, PositiveFloat, PositiveInt, Probability, Strict
from vstrain.data.kinds import PICTURE

PATCH = 14  # side of a DINOv2 patch in pixels
UNLABELLED = "unlabelled"  # role of a source whose pictures a teacher labels while the student trains


class Loss(Strict):
    align: Literal["median_mad", "least_squares"]  # how scale and shift are taken out of both maps
    rho: Literal["mae", "mse", "trimmed_mae"]  # what a residual costs
    gradient_weight: Annotated[float, Field(ge=0)]  # of the gradient matching term, beside 1 for the residual term
    drop: Annotated[float, Field(ge=0, lt=1)]  # share of a pseudo-labelled picture's residuals left out, the largest
    silog_lambda: Probability  # metric: sqrt(mean g^2 - lambda (mean g)^2), g = ln d - ln p; 1 ignores scale


class Perturb(Strict):
    """Changes of training pictures, made on the device (see vstrain.nn.augment)."""

    which: Literal["all", "pseudo"]  # pseudo: pseudo-labelled pictures alone
    jitter: Probability  # of a change of colours
    brightness: Annotated[float, Field(ge=0)]  # a factor from 1 - x to 1 + x, as contrast and saturation
    contrast: Annotated[float, Field(ge=0)]
    saturation: Annotated[float, Field(ge=0)]
    hue: Annotated[float, Field(ge=0, le=0.5)]  # a turn of the colour circle, 1 is the whole
    blur: Probability
    sigma: tuple[PositiveFloat, PositiveFloat]  # pixels
    cutmix: Probability  # of a box from another picture of the batch, whose loss is taken apart
    area: tuple[Probability, Probability]  # of the box, share of the picture
    aspect: Annotated[float, Field(ge=1)]  # of the box, height / width from 1 / aspect to aspect


class Alignment(Strict):
    """Keeping the student's features near those of a frozen encoder (depth spec, 4.4)."""

    weight: Annotated[float, Field(gt=0)]
    margin: Annotated[float, Field(gt=0, le=1)]  # patches more alike than this cosine cost nothing
    size: Literal["tiny", "vits", "vitb", "vitl", "vitg"]  # of the frozen encoder
    init: str  # its weights, as system.init; "random" is for trying only


class Student(Strict):
    """Learning from pseudo labels, alone or beside true ones (depth spec, 3 to 5)."""

    ratio: tuple[NonNegativeInt, PositiveInt]  # labelled : pseudo-labelled samples of every micro-batch
    labelled_weight: Annotated[float, Field(ge=0)]  # of the mean loss over labelled samples
    pseudo_weight: PositiveFloat  # of the mean loss over pseudo-labelled samples
    alignment: Alignment | None
    teacher: str | None  # labels sources of role `unlabelled` while training: a run directory, an export, or a .pth


class Stereo(Strict):
    shift: Annotated[float, Field(gt=0, le=10)]  # between the two views, from nearest to farthest, percent of the width
    plane: Probability  # the disparity, 0 far to 1 near, that stays in the plane of the screen


class Parallax(Strict):
    shift: Annotated[float, Field(gt=0, le=10)]  # from rest, from nearest to farthest, percent of the width
    plane: Probability  # the disparity, 0 far to 1 near, that rests
    seconds: PositiveFloat  # of one turn of the camera
    fps: PositiveInt
    side: Annotated[int, Field(ge=16)]  # at most so many pixels, longest side


class Video(Strict):
    """Depth of videos, see scene/steady.py."""

    static: PositiveFloat  # of 255: a pixel that changes less between two frames is taken to be still
    cut: Probability  # a picture that correlates less with the one before begins a new shot
    momentum: Annotated[float, Field(ge=0, lt=1)]  # of the range that is displayed


class Predict(Strict):
    """What `vstrain predict` makes of photos and videos (docs/depth_predict.md)."""

    # of a photo: depth, cloud, mesh, stereo, anaglyph, parallax; of a video: depth, frames, stereo, anaglyph
    outputs: Annotated[
        list[Literal["depth", "cloud", "mesh", "stereo", "anaglyph", "parallax", "frames"]], Field(min_length=1)
    ]
    size: Annotated[int, Field(gt=0, multiple_of=PATCH)] | None  # short side in the network; null: image_size
    tile: Annotated[int, Field(ge=PATCH)] | Literal["auto"] | None  # pixels of the photo, a side; null: seen whole
    fov: Annotated[float, Field(gt=1, lt=170)]  # horizontal, degrees, of a photo whose EXIF names no focal length
    far_ratio: Annotated[float, Field(gt=1)]  # relative depth: the farthest point over the nearest
    edge: Probability  # a jump between neighbours of more than this share (disparity: of its range) parts two surfaces
    points: PositiveInt  # of a cloud, at most
    vertices: Annotated[int, Field(ge=4)]  # of a mesh, at most
    quality: Annotated[int, Field(ge=1, le=100)]  # of JPEGs
    crf: Annotated[int, Field(ge=0, le=51)]  # of H.264 videos, 0 is lossless
    stereo: Stereo
    parallax: Parallax
    video: Video


class Export(Strict):
    onnx: bool  # an ONNX file besides; needs vstrain[onnx]


class Config(SystemConfig):
    size: Literal["tiny", "vits", "vitb", "vitl", "vitg"]  # encoder and head widths, see network.SIZES
    version: Literal["v1", "v2"]  # which blocks the head reads: the last four, or four spread over the depth
    output: Literal["relative", "metric"]  # disparity of free scale and shift, or metres
    max_depth: PositiveInt | None  # metric: metres at which the output ends (published: 20 indoor, 80 outdoor)
    pos_embed: Literal["official", "hf"]  # resampling of the position table at sizes other than its own
    init: str  # "random", or a DINOv2 checkpoint (.pth, .safetensors or a Hugging Face folder) for the encoder
    init_parts: Literal["encoder", "all"]  # what is taken from init; all: a depth network, head and encoder
    image_size: Annotated[int, Field(gt=0, multiple_of=PATCH)]  # side of the training crop, pixels
    predict: Predict
    antialias: bool  # average areas before a photo is shrunk more than twofold (published: false)
    sky: Literal["far", "ignore"]  # far: known sky has disparity 0 and enters the loss; ignore: it is invalid
    flip: Probability  # of a horizontal flip
    perturb: Perturb | None  # null leaves pictures as they are
    student: Student | None  # null: trained on true labels alone
    camera: PositiveFloat | None  # metric: focal length of the camera that metres are learned for, in picture sides
    head_lr_scale: PositiveFloat  # learning rate of everything but the encoder, times optim.lr
    loss: Loss
    depth_cap: PositiveFloat  # metres: scores floor aligned disparity at 1 / cap and leave farther pixels out
    export: Export
    attention: Literal["sdpa", "math", "xformers", "flex"] = "sdpa"  # of the encoder, see vstrain.nn.attention
    pictures: PositiveInt  # rows of the validation picture

    def members(self, role: str | None) -> list[str] | None:
        if role not in (None, UNLABELLED):
            raise ValueError(f"role={role}: depth knows unlabelled (labelled by system.student.teacher), or none")
        if role == UNLABELLED and not (self.student and self.student.teacher):
            raise ValueError(
                "a source of role unlabelled needs system.student.teacher, or labels made with `vstrain label` and no role"
            )
        return [PICTURE] if role == UNLABELLED else None

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if (self.output == "metric") != (self.max_depth is not None):
            raise ValueError(
                f"system.output={self.output} with system.max_depth={self.max_depth}: metric output needs the metres at which "
                "it ends (20 indoor, 80 outdoor), relative output has none"
            )
        if self.output == "metric" and self.student:
            raise ValueError("system.student learns relative depth: set system.output=relative")
        if self.camera and self.output != "metric":
            raise ValueError("system.camera is for metric depth: set system.output=metric, or camera=null")
        if self.version == "v1" and self.size == "vitg":
            raise ValueError("size=vitg exists in version v2 only: set version=v2 or another size")
        return self
