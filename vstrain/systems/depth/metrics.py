"""Depth scores (depth spec, section 8): of training's normalised disparity, and of any map against another."""

from __future__ import annotations

import torch
from torch import Tensor

from vstrain.systems.depth.objective import least_squares

METRICS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3")
LOGARITHMIC = ("rmse_log", "log10", "silog")  # need positive predictions


def fit_disparity(
    prediction: Tensor, disparity: Tensor, span: Tensor, valid: Tensor, cap: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(fitted, truth, counted), (B, H, W) each: the prediction moved onto true disparity by one least-squares
    scale and shift an image and floored at 1 / cap, true disparity (float64, 1 / metre), and the valid pixels
    nearer than `cap`.

    `disparity` is in [0, 1]; `span` (B, 2) holds the true disparities that 0 and 1 stand for."""
    truth, counted = truth_disparity(disparity, span, valid, cap)
    scale, shift = least_squares(prediction.double(), truth, counted)
    return (scale * prediction + shift).clamp_min(1 / cap), truth, counted


def truth_disparity(disparity: Tensor, span: Tensor, valid: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """(true disparity float64 in 1 / metre, valid pixels nearer than `cap`), (B, H, W) each; arguments as above."""
    low, high = span.double()[:, :, None, None].unbind(1)
    truth = low + disparity.double() * (high - low)
    return truth, valid & (truth * cap >= 1)


def depth_scores(fitted: Tensor, truth: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """Per-sample {"abs_rel", "delta1"} as in `scores`, (B,) float32, of the depths 1 / fitted and 1 / truth."""
    depths = (1 / torch.where(counted, x.double(), 1) for x in (fitted, truth))
    found = scores(*depths, counted)
    return {name: found[name].float() for name in ("abs_rel", "delta1")}


def scale_and_shift(prediction: Tensor, target: Tensor, counted: Tensor, how: str) -> tuple[Tensor, Tensor]:
    """(scale, shift), (B, 1, 1) float64 each, that move the prediction onto the target with the smallest sum of squares over
    counted pixels. how: scale_shift, scale (shift 0), or none (1 and 0)."""
    p, t = torch.where(counted, prediction, 0).double(), torch.where(counted, target, 0).double()
    if how == "scale_shift":
        return least_squares(p, t, counted)
    one = p.new_ones(len(p), 1, 1)
    if how == "none":
        return one, 0 * one
    energy = p.square().sum((1, 2), keepdim=True)
    scale = (p * t).sum((1, 2), keepdim=True) / torch.where(energy > 0, energy, 1)
    return scale, 0 * one


def scores(predicted: Tensor, truth: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """Per-sample METRICS, (B,) float64, of a prediction p against t > 0 (B, H, W) over counted pixels. With g = ln p - ln t:

        abs_rel   mean |p - t| / t          rmse_log  sqrt mean g^2
        sq_rel    mean (p - t)^2 / t        log10     mean |log10 p - log10 t|
        rmse      sqrt mean (p - t)^2       silog     100 sqrt(mean g^2 - (mean g)^2)
        deltaN    share with max(p / t, t / p) < 1.25^N

    A sample without a counted pixel scores 0 in all. p <= 0 misses every delta and makes the logarithmic scores nan."""
    p, t = torch.where(counted, predicted, 1).double(), torch.where(counted, truth, 1).double()
    count = counted.sum((1, 2)).clamp_min(1)

    def mean(x: Tensor) -> Tensor:
        return x.sum((1, 2)).double() / count

    error, g = p - t, (p / t).log()
    ratio = torch.where(p > 0, torch.maximum(p / t, t / p), torch.inf)
    return {
        "abs_rel": mean(error.abs() / t),
        "sq_rel": mean(error.square() / t),
        "rmse": mean(error.square()).sqrt(),
        "rmse_log": mean(g.square()).sqrt(),
        "log10": mean(g.abs()) / torch.log(torch.tensor(10.0, dtype=torch.float64)),
        "silog": 100 * (mean(g.square()) - mean(g).square()).clamp_min(0).sqrt(),
        **{f"delta{n}": mean(counted & (ratio < 1.25**n)) for n in (1, 2, 3)},
    }
