"""Depth scores of affine-invariant disparity (depth spec, section 8, scored in depth space)."""

from __future__ import annotations

import torch
from torch import Tensor

from vstrain.systems.depth.objective import least_squares


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
    """Per-sample {"abs_rel": mean |p - t| / t, "delta1": share with max(p / t, t / p) < 1.25}, (B,) float32,
    of the depths p = 1 / fitted and t = 1 / truth. A sample without a counted pixel scores 0 in both."""
    ratio = torch.where(counted, truth / fitted, 1)
    count = counted.sum((1, 2)).clamp_min(1)
    abs_rel = (ratio - 1).abs().sum((1, 2)) / count
    within = counted & (torch.maximum(ratio, 1 / ratio) < 1.25)
    return {"abs_rel": abs_rel.float(), "delta1": within.sum((1, 2)) / count}
