"""The keys of each protocol; their values stand in conf/protocol/NAME.yaml."""

from __future__ import annotations

from typing import Literal

from vstrain.config.strict import PositiveFloat, PositiveInt, Strict


class Protocol(Strict):
    name: str
    root: str  # folder of the data set
    published: PositiveInt | None  # number of images that published scores are over; another number is warned about
    resamples: PositiveInt  # of the images, for the confidence intervals
    pictures: PositiveInt  # images shown of the best and of the worst each


class DepthProtocol(Protocol):
    space: Literal["depth", "disparity"]  # in which prediction and truth are compared
    align: Literal["auto", "none", "scale", "scale_shift"]  # auto: scale_shift if relative, none if metric
    cap: PositiveFloat  # metres: farther truth does not count, predicted depth ends there
    crop: Literal["none", "garg", "eigen", "nyu"]


class KittiEigen(DepthProtocol):
    split: str | None


class NYUv2(DepthProtocol):
    split: str
    depth_scale: PositiveFloat


class Sintel(DepthProtocol):
    rendering: Literal["final", "clean"]  # final: with motion blur and atmosphere


class DIODE(DepthProtocol):
    edge_mask: PositiveFloat | None


class Folder(DepthProtocol):
    images: str
    depths: str
    unit: Literal["depth", "disparity"]
    depth_scale: PositiveFloat


PROTOCOLS: dict[str, type[Protocol]] = {
    "kitti_eigen": KittiEigen,
    "nyuv2": NYUv2,
    "sintel": Sintel,
    "eth3d": DepthProtocol,
    "diode": DIODE,
    "da2k": Protocol,
    "folder": Folder,
}
