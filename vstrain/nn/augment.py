"""Augmentation of whole batches on the device that holds them.

Data workers hand over uint8; here it becomes float. Every draw belongs to a row's key (`batch["key"]`), so a row is changed
in the same way whatever else is in its batch, on any rank and after any restart. Pictures are float (B, 3, H, W) in
[0, 1] unless said otherwise; all functions keep the dtype and the device, and the range.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vstrain.data import keyed

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of RGB in [0, 1]
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
Range = tuple[float, float]


def to_float(pictures: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [0, 1], in channels_last memory: nothing is moved."""
    return (pictures.float() / 255).permute(0, 3, 1, 2)


def normalise(pictures: Tensor, mean=IMAGENET[0], std=IMAGENET[1]) -> Tensor:
    """(x - mean) / std for each channel; uint8 (B, H, W, 3) is brought to [0, 1] first."""
    pictures = to_float(pictures) if pictures.dtype == torch.uint8 else pictures
    return (pictures - _column(mean, pictures)) / _column(std, pictures)


def colour_jitter(
    pictures: Tensor,
    key: Tensor,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    probability: float = 1.0,
) -> Tensor:
    """Brightness, contrast, saturation and hue, in this order. Each of the first three by a factor from [max(0, 1 - x),
    1 + x], hue by a turn from [-hue, hue] (1 is the whole circle). A row is changed with `probability`.

    Formulas as in torchvision.transforms.ColorJitter, whose order is random."""
    draws = keyed.uniform(key, "colour jitter", (5,)).to(pictures)
    spread = torch.tensor([brightness, contrast, saturation], device=draws.device, dtype=draws.dtype)
    low = (1 - spread).clamp(min=0)
    factors = low + draws[:, :3] * (1 + spread - low)
    turn = (2 * draws[:, 3] - 1) * hue
    changed = pictures
    if brightness:
        changed = blend(changed, torch.zeros((), device=draws.device, dtype=draws.dtype), factors[:, 0])
    if contrast:
        changed = blend(changed, grey(changed).mean((1, 2, 3), keepdim=True), factors[:, 1])
    if saturation:
        changed = blend(changed, grey(changed), factors[:, 2])
    if hue:
        changed = turn_hue(changed, turn)
    return torch.where(_rows(draws[:, 4] < probability), changed, pictures)


def gaussian_blur(pictures: Tensor, key: Tensor, sigma: Range, probability: float = 1.0) -> Tensor:
    """Blur with a deviation of `sigma` pixels, drawn for each row; beyond the edge the picture is mirrored. The kernel is
    cut at 3 x the largest sigma. A row is changed with `probability`."""
    draws = keyed.uniform(key, "gaussian blur", (2,)).to(pictures)
    chosen = sigma[0] + draws[:, 0] * (sigma[1] - sigma[0])
    return blur(pictures, torch.where(draws[:, 1] < probability, chosen, 0), math.ceil(3 * sigma[1]))


def cutmix(
    pictures: Tensor,
    others: Tensor,
    key: Tensor,
    area: Range = (0.02, 0.4),
    aspect: float = 3.3,
    probability: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """A box of `others` (as `pictures`) in each picture: (the mix, bool (B, H, W): True where it is of `others`).

    The box takes an even share of the picture from `area`, with height / width log-even in [1 / aspect, aspect] as far
    as it fits, anywhere inside. No box in a row with 1 - `probability`. Boxes belong to the keys of `pictures` alone."""
    mask = cutmix_boxes(key, *pictures.shape[-2:], area, aspect, probability)
    return torch.where(mask[:, None], others, pictures), mask


def cutmix_boxes(key: Tensor, height: int, width: int, area: Range, aspect: float, probability: float) -> Tensor:
    """bool (B, height, width): the boxes of `cutmix`."""
    share, shape, down, right, use = keyed.uniform(key, "cutmix", (5,)).double().unbind(1)
    pixels = (area[0] + share * (area[1] - area[0])) * height * width
    ratio = aspect ** (2 * shape - 1)
    tall = (pixels * ratio).sqrt().clamp(max=height)
    wide = (pixels / tall).clamp(max=width)
    tall = (pixels / wide).clamp(max=height).round()
    wide = wide.round()
    top, left = (down * (height - tall + 1)).floor(), (right * (width - wide + 1)).floor()
    y, x = (torch.arange(side, device=key.device) for side in (height, width))
    rows = (y >= top[:, None]) & (y < (top + tall)[:, None])
    columns = (x >= left[:, None]) & (x < (left + wide)[:, None])
    return rows[:, :, None] & columns[:, None, :] & (use < probability)[:, None, None]


def grey(pictures: Tensor) -> Tensor:
    """Luma, (B, 1, H, W)."""
    return (pictures * _column(LUMA, pictures)).sum(1, keepdim=True)


def blend(pictures: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """other + factor x (pictures - other), factor (B,), cut to [0, 1]. Factor 1 is the identity."""
    factor = _rows(factor)
    return (factor * pictures + (1 - factor) * other).clamp(0, 1)


def turn_hue(pictures: Tensor, turn: Tensor) -> Tensor:
    """Hue + turn (B,) of the circle, saturation and value (HSV) as they are."""
    value, low = pictures.amax(1), pictures.amin(1)
    chroma = value - low
    r, g, b = pictures.unbind(1)
    safe = torch.where(chroma > 0, chroma, 1)
    sixth = torch.where(value == r, (g - b) / safe, torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    sixth = sixth + 6 * turn[:, None, None]
    # Smith 1978: a channel is value - chroma x max(0, min(k, 4 - k, 1)), k = (n + hue in sixths) mod 6, n = 5, 3, 1
    k = (sixth[:, None] + _column((5.0, 3.0, 1.0), pictures)) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def blur(pictures: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Gaussian blur by sigma (B,) pixels, 0: none, cut at `radius` pixels and at the picture's size."""
    for axis in (2, 3):
        reach = min(radius, pictures.shape[axis] - 1)
        at = torch.arange(-reach, reach + 1, device=pictures.device, dtype=pictures.dtype)
        weight = torch.exp(-((at / sigma.clamp(min=1e-4)[:, None]) ** 2) / 2)  # at sigma 0: 1 in the middle, else 0
        weight = weight / weight.sum(1, keepdim=True)
        pad, kernel = ((0, 0, reach, reach), (len(at), 1)) if axis == 2 else ((reach, reach, 0, 0), (1, len(at)))
        padded = F.pad(pictures, pad, mode="reflect").flatten(0, 1)[None]
        weight = weight.repeat_interleave(3, 0).reshape(-1, 1, *kernel)
        pictures = F.conv2d(padded, weight, groups=len(weight))[0].unflatten(0, (-1, 3))
    return pictures


def _rows(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _column(values, like: Tensor) -> Tensor:
    """One number a channel, (3, 1, 1)."""
    return torch.tensor(values, device=like.device, dtype=like.dtype)[:, None, None]
