"""Scores against depth maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.nn import functional as F

from vstrain.config.problems import InputError
from vstrain.systems.depth.metrics import LOGARITHMIC, METRICS, scale_and_shift, scores
from vstrain.systems.depth.predict import disparity_of
from vstrain.systems.depth.protocols import crops, summary
from vstrain.systems.depth.protocols.config import DepthProtocol
from vstrain.systems.depth.protocols.gallery import Gallery, dense_tiles
from vstrain.systems.depth.protocols.listing import Sample

NEAREST = 1e-3  # metres: predicted depth begins here
ASPECT = 0.02  # relative difference of aspect ratio that picture and depth may have


@dataclass(frozen=True)
class Judged:
    """Of one image. scale, shift: what aligned the prediction. counted: bool (H, W)."""

    scores: dict[str, float]
    scale: float
    shift: float
    counted: np.ndarray


def metrics_of(options: DepthProtocol) -> tuple[str, ...]:
    """Disparity is not floored, so that it has no logarithm."""
    return METRICS if options.space == "depth" else tuple(name for name in METRICS if name not in LOGARITHMIC)


def alignment_of(options: DepthProtocol, metric: bool) -> str:
    return options.align if options.align != "auto" else "none" if metric else "scale_shift"


def describe(options: DepthProtocol, metric: bool) -> str:
    """The choices that decide the numbers, in words."""
    align, target = alignment_of(options, metric), "depth" if metric else "1/depth"
    fits = {
        "none": "no alignment",
        "scale": f"scale fitted to {target} per image",
        "scale_shift": f"scale and shift fitted to {target} per image",
    }
    kind = "metric" if metric else "relative"
    return f"{kind} model, {fits[align]} | space {options.space} | crop {crops.WORDS[options.crop]} | cap {options.cap:g} m"


def evaluate(
    system, options: DepthProtocol, samples: list[Sample], progress: Callable[[int, int], None]
) -> tuple[list[summary.Row], list[str], np.ndarray]:
    """(a row an image, names of the images without a pixel to count, picture of the best and the worst)."""
    metric = system.config.output == "metric"
    rows, empty, gallery = [], [], Gallery(options.pictures)
    for done, sample in enumerate(samples, 1):
        photo, depth = sample.read()
        try:
            prediction = prediction_at(system, photo, depth.shape)
            judged = judge(prediction, depth, options, metric)
        except InputError as error:
            raise InputError(f"{sample.key}: {error}") from error
        if judged is None:
            empty.append(sample.key)
        else:
            rows.append(summary.Row(sample.key, sample.group, int(judged.counted.sum()), judged.scores))
            line = f"AbsRel {judged.scores['abs_rel']:.3f}   delta1 {judged.scores['delta1']:.3f}   {sample.key}"
            shown = partial(_tiles, photo, prediction, depth, judged, options, metric)
            gallery.offer(judged.scores["abs_rel"], line, shown)
        progress(done, len(samples))
    return rows, empty, gallery.sheet(f"{options.name}: {describe(options, metric)}")


def judge(prediction: np.ndarray, depth: np.ndarray, options: DepthProtocol, metric: bool) -> Judged | None:
    """Scores of a prediction (H, W), disparity of free scale and shift or metres, against depth (H, W) in metres. None when no
    pixel has depth within the crop and the cap."""
    counted = np.isfinite(depth) & (depth > 0) & (depth <= options.cap) & crops.inside(options.crop, *depth.shape)
    if not counted.any():
        return None
    p, t = (torch.from_numpy(np.asarray(x[counted], np.float64))[None, None] for x in (prediction, depth))
    every = torch.ones_like(t, dtype=torch.bool)
    scale, shift = scale_and_shift(p, t if metric else 1 / t, every, alignment_of(options, metric))
    compared = in_space(scale * p + shift, options, metric)
    found = scores(compared, t if options.space == "depth" else 1 / t, every)
    return Judged({name: found[name].item() for name in metrics_of(options)}, scale.item(), shift.item(), counted)


def in_space(aligned: torch.Tensor, options: DepthProtocol, metric: bool) -> torch.Tensor:
    """An aligned prediction as it is compared: depth is kept within NEAREST and the cap; disparity of a relative model, which
    is compared as disparity, is left as it is."""
    if metric:
        depth = aligned.clamp(NEAREST, options.cap)
        return depth if options.space == "depth" else 1 / depth
    return 1 / aligned.clamp_min(1 / options.cap) if options.space == "depth" else aligned


def prediction_at(system, photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The prediction float32 (H, W) for a photo at the size of the depth map that it is compared with."""
    prediction = disparity_of(system, photo)
    if prediction.shape == size:
        return prediction
    (height, width), (h, w) = prediction.shape, size
    if abs(w * height / (h * width) - 1) > ASPECT:
        raise InputError(f"the picture has {width} x {height} pixels, its depth {w} x {h}: they show different views")
    resized = F.interpolate(torch.from_numpy(prediction)[None, None], size, mode="bilinear", align_corners=True)
    return resized[0, 0].numpy()


def _tiles(
    photo: np.ndarray, prediction: np.ndarray, depth: np.ndarray, judged: Judged, options: DepthProtocol, metric: bool
) -> list[np.ndarray]:
    compared = in_space(torch.from_numpy(prediction).double() * judged.scale + judged.shift, options, metric).numpy()
    truth = np.where(judged.counted, depth, 1.0)
    if options.space == "depth":
        error, compared = np.abs(compared - truth) / truth, 1 / compared
    else:
        error = np.abs(compared - 1 / truth) * truth
    return dense_tiles(photo, 1 / truth, compared, error, judged.counted)
