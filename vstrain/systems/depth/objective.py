"""The losses of depth (depth spec, sections 4 and 6): scale-and-shift-invariant residuals, gradient matching, the same
under CutMix, scale-invariant logarithm for metres, and feature alignment.

Pure tensor functions. Maps are (B, H, W), `valid` is bool; every result is one number a sample, (B,) float32.
Statistics, sums and counts run over valid pixels only; a sample without valid pixels costs 0. The whole file
is a float32 island.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-6  # smallest scale (median_mad) and variance (least_squares) that is divided by
TRIM = 0.8  # trimmed_mae keeps this share of the residuals, the smallest (MiDaS eq. 8)
GRADIENT_SCALES = 4


def depth_loss(
    prediction: Tensor, target: Tensor, valid: Tensor, align: str, rho: str, drop: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The residual term and the gradient matching term, each (B,), of predicted against target disparity. drop (B,): the
    share of each sample's residuals, the largest, that its residual term leaves out; statistics and gradients use all."""
    with torch.autocast(prediction.device.type, enabled=False):
        residual = aligned_residual(prediction.float(), target.float(), valid, align)
        return residual_cost(residual, valid, rho, drop), gradient_cost(residual, valid)


def cutmix_loss(
    prediction: Tensor,
    target: Tensor,
    valid: Tensor,
    other: tuple[Tensor, Tensor],
    box: Tensor,
    align: str,
    rho: str,
    drop: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `depth_loss`, of pictures that show another one inside `box` (B, H, W), bool: `other` holds its target and valid.
    Each side of the border has its own statistics, no gradient crosses it, and a side weighs its share of the area."""
    inside = depth_loss(prediction, other[0], other[1] & box, align, rho, drop)
    outside = depth_loss(prediction, target, valid & ~box, align, rho, drop)
    share = box.float().mean((1, 2))
    return tuple(share * i + (1 - share) * o for i, o in zip(inside, outside, strict=True))


def silog_loss(prediction: Tensor, depth: Tensor, valid: Tensor, balance: float) -> Tensor:
    """sqrt(mean g^2 - balance (mean g)^2), g = ln depth - ln prediction, (B,): each sample by itself, so that the loss is
    the same on any number of ranks. Metres; `balance` 0.5 is that of the metric fine-tuning, 1 forgives any scale."""
    with torch.autocast(prediction.device.type, enabled=False):
        count = valid.sum((1, 2)).clamp_min(1)
        g = torch.where(valid, depth, 1).log() - torch.where(valid, prediction.float(), 1).clamp_min(EPS).log()
        mean = g.sum((1, 2)) / count
        spread = g.square().sum((1, 2)) / count - balance * mean.square()
        return torch.where(spread > EPS**2, spread, EPS**2).sqrt() * valid.any((1, 2))


def alignment_loss(features: Tensor, reference: Tensor, margin: float) -> Tensor:
    """1 - the mean cosine of features and reference (B, N, D) over the patches whose cosine is not above `margin`, (B,);
    0 for a sample without any. V1 eq. 6, the test made patch by patch."""
    with torch.autocast(features.device.type, enabled=False):
        cosine = F.cosine_similarity(features.float(), reference.float(), dim=2)
        kept = cosine <= margin
        return torch.where(kept, 1 - cosine, 0).sum(1) / kept.sum(1).clamp_min(1)


def aligned_residual(prediction: Tensor, target: Tensor, valid: Tensor, align: str) -> Tensor:
    """R = p^ - d^ (B, H, W), 0 where invalid. `median_mad` standardises both maps (Depth Anything V1 eq.
    1-3); `least_squares` moves the prediction onto the target (MiDaS eq. 3-4)."""
    if align == "median_mad":
        residual = standardise(prediction, valid) - standardise(target, valid)
    else:
        scale, shift = least_squares(prediction, target, valid)
        residual = scale * prediction + shift - target
    return torch.where(valid, residual, 0)


def standardise(x: Tensor, valid: Tensor) -> Tensor:
    """(x - t) / s with t the median and s the mean absolute deviation from it. Of an even number of pixels
    the lower middle value is the median. Values at invalid pixels mean nothing."""
    flat, keep = x.flatten(1), valid.flatten(1)
    count = keep.sum(1, keepdim=True)
    ordered = flat.masked_fill(~keep, torch.inf).sort(1).values
    median = ordered.gather(1, (count - 1).clamp_min(0) // 2)
    median = torch.where(count > 0, median, 0)
    deviation = torch.where(keep, (flat - median).abs(), 0).sum(1, keepdim=True) / count.clamp_min(1)
    return ((flat - median) / deviation.clamp_min(EPS)).view_as(x)


def least_squares(prediction: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """(scale, shift), each (B, 1, 1), with the smallest sum of (scale p + shift - d)^2; scale 0 for a
    constant p."""
    p, d = torch.where(valid, prediction, 0), torch.where(valid, target, 0)
    count = valid.sum((1, 2), keepdim=True).clamp_min(1)
    mean_p, mean_d = p.sum((1, 2), keepdim=True) / count, d.sum((1, 2), keepdim=True) / count
    dp, dd = torch.where(valid, p - mean_p, 0), torch.where(valid, d - mean_d, 0)
    variance = dp.square().sum((1, 2), keepdim=True) / count
    covariance = (dp * dd).sum((1, 2), keepdim=True) / count
    scale = torch.where(variance > EPS**2, covariance / variance.clamp_min(EPS**2), 0)
    return scale, mean_d - scale * mean_p


def residual_cost(residual: Tensor, valid: Tensor, rho: str, drop: Tensor | None = None) -> Tensor:
    """mae: mean |R| (V1 eq. 3). mse: mean R^2 / 2, trimmed_mae: sum of the smallest 80 % of |R| over 2M (MiDaS).
    With `drop`, M counts the pixels whose |R| is below the percentile 100 (1 - drop), and they alone cost."""
    count = valid.sum((1, 2))
    size = residual.abs()
    if drop is None and rho != "trimmed_mae":
        return (size if rho == "mae" else size.square() / 2).sum((1, 2)) / count.clamp_min(1)
    ordered = size.masked_fill(~valid, torch.inf).flatten(1).sort(1).values
    if drop is not None:
        below = ((1 - drop.double()) * (count - 1) - EPS).ceil().clamp_min(0).long()  # ranks below the percentile
        count = torch.where(drop > 0, below, count)
    rank = torch.arange(ordered.shape[1], device=ordered.device)
    kept = rank < ((TRIM * count).floor() if rho == "trimmed_mae" else count).unsqueeze(1)
    cost = ordered if rho == "mae" else ordered.square() / 2 if rho == "mse" else ordered / 2
    return torch.where(kept, cost, 0).sum(1) / count.clamp_min(1)


def gradient_cost(residual: Tensor, valid: Tensor) -> Tensor:
    """Sum over four scales (every 1st, 2nd, 4th, 8th row and column) of the absolute differences of R between
    right-hand and lower neighbours that are both valid, over the number of valid pixels at that scale (MiDaS
    eq. 11)."""
    cost = residual.new_zeros(residual.shape[0])
    for k in range(GRADIENT_SCALES):
        r, v = residual[:, :: 2**k, :: 2**k], valid[:, :: 2**k, :: 2**k]
        right = torch.where(v[:, :, 1:] & v[:, :, :-1], r[:, :, 1:] - r[:, :, :-1], 0).abs().sum((1, 2))
        lower = torch.where(v[:, 1:] & v[:, :-1], r[:, 1:] - r[:, :-1], 0).abs().sum((1, 2))
        cost = cost + (right + lower) / v.sum((1, 2)).clamp_min(1)
    return cost
