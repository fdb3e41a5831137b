"""Batched augmentation against formulas written a second time, a picture and a pixel at a time."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch

from vstrain.data import keyed
from vstrain.nn import augment

KEYS = torch.tensor([7, 11, 2**62, 5, 0], dtype=torch.int64)
JITTER = {"brightness": 0.4, "contrast": 0.5, "saturation": 0.6, "hue": 0.1}


def pictures(dtype=torch.float64, rows: int = len(KEYS), height: int = 13, width: int = 17) -> torch.Tensor:
    batch = torch.rand(rows, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch[:, :, 0, :3] = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)  # grey pixels have no hue
    return batch.to(dtype)


CALLS = {
    "jitter": lambda x, key: augment.colour_jitter(x, key, **JITTER, probability=0.7),
    "blur": lambda x, key: augment.gaussian_blur(x, key, (0.1, 2.0), 0.7),
    "cutmix": lambda x, key: augment.cutmix(x, 1 - x, key, probability=0.7)[0],
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_is_independent_of_its_batch(name, dtype):
    call, batch = CALLS[name], pictures(dtype)
    whole = call(batch, KEYS)
    assert whole.dtype == dtype and whole.shape == batch.shape
    tight = {"rtol": 0, "atol": 10 * torch.finfo(dtype).eps}
    for row in range(len(KEYS)):
        torch.testing.assert_close(call(batch[row : row + 1], KEYS[row : row + 1])[0], whole[row], **tight)
    order = torch.tensor([3, 0, 3, 1])
    torch.testing.assert_close(call(batch[order], KEYS[order]), whole[order], **tight)


@pytest.mark.parametrize("name", CALLS)
def test_keys_and_global_state(name):
    call, batch = CALLS[name], pictures()
    torch.manual_seed(1)
    first = call(batch, KEYS)
    torch.manual_seed(2)
    assert torch.equal(call(batch, KEYS), first)
    other = call(batch, KEYS + 1000)
    assert not torch.equal(other, first) and (first != batch).any() and (other != batch).any()


@pytest.mark.parametrize("name", CALLS)
def test_the_range_stays(name):
    for extreme in (pictures(torch.float32), pictures(torch.float32).round()):
        out = CALLS[name](extreme, KEYS)
        assert out.min() >= -1e-6 and out.max() <= 1 + 1e-6 and torch.isfinite(out).all()


def test_probability_zero_and_empty_parameters_change_nothing():
    batch = pictures(torch.float32)
    assert torch.equal(augment.colour_jitter(batch, KEYS), batch)
    assert torch.equal(augment.colour_jitter(batch, KEYS, **JITTER, probability=0), batch)
    assert torch.equal(augment.gaussian_blur(batch, KEYS, (0.0, 0.0)), batch)
    assert torch.equal(augment.gaussian_blur(batch, KEYS, (1.0, 2.0), 0), batch)
    mixed, mask = augment.cutmix(batch, 1 - batch, KEYS, probability=0)
    assert torch.equal(mixed, batch) and not mask.any()
    ones = torch.ones(len(KEYS))
    torch.testing.assert_close(augment.blend(batch, torch.rand(1), ones), batch)
    torch.testing.assert_close(augment.turn_hue(batch, 0 * ones), batch)


@pytest.mark.parametrize("turn", [1.0, -1.0, 2.0])
def test_a_whole_turn_is_none(turn):
    batch = pictures()
    torch.testing.assert_close(augment.turn_hue(batch, torch.full((len(KEYS),), turn, dtype=torch.float64)), batch)


def test_thirds_of_a_turn_permute_the_channels():
    batch = pictures()
    third = torch.full((len(KEYS),), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(augment.turn_hue(batch, third), batch.roll(1, 1))  # red -> green -> blue
    torch.testing.assert_close(augment.turn_hue(batch, -third), batch.roll(-1, 1))


def naive_jitter(picture: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """(3, H, W) float64; the order of the documentation, colours by the standard library's colorsys."""
    names = ["brightness", "contrast", "saturation"]
    b, c, s = (
        max(0, 1 - JITTER[n]) + u * (1 + JITTER[n] - max(0, 1 - JITTER[n])) for n, u in zip(names, draws, strict=False)
    )
    turn = JITTER["hue"] * (2 * draws[3] - 1)
    out = np.clip(b * picture, 0, 1)
    luma = 0.299 * out[0] + 0.587 * out[1] + 0.114 * out[2]
    out = np.clip(c * out + (1 - c) * luma.mean(), 0, 1)
    luma = 0.299 * out[0] + 0.587 * out[1] + 0.114 * out[2]
    out = np.clip(s * out + (1 - s) * luma, 0, 1)
    for y, x in np.ndindex(out.shape[1:]):
        hue, saturation, value = colorsys.rgb_to_hsv(*out[:, y, x])
        out[:, y, x] = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
    return out


def test_jitter_is_the_one_of_a_naive_implementation():
    batch = pictures()
    got = augment.colour_jitter(batch, KEYS, **JITTER)
    for row, key in enumerate(KEYS.tolist()):
        draws = keyed.rng(key, "colour jitter").random(5, dtype=np.float32).astype(np.float64)
        np.testing.assert_allclose(got[row].numpy(), naive_jitter(batch[row].numpy(), draws), atol=1e-9)


def naive_blur(plane: np.ndarray, sigma: float, radius: int) -> np.ndarray:
    """A sum over all neighbours of every pixel, indices mirrored at the edge."""
    height, width = plane.shape
    out = np.zeros_like(plane)
    offsets = range(-radius, radius + 1)
    weight = {d: math.exp(-d * d / (2 * sigma * sigma)) for d in offsets}
    total = sum(weight.values()) ** 2
    for y, x in np.ndindex(plane.shape):
        for dy in offsets:
            for dx in offsets:
                yy, xx = y + dy, x + dx
                yy = -yy if yy < 0 else 2 * (height - 1) - yy if yy >= height else yy
                xx = -xx if xx < 0 else 2 * (width - 1) - xx if xx >= width else xx
                out[y, x] += weight[dy] * weight[dx] / total * plane[yy, xx]
    return out


def test_blur_is_the_one_of_a_naive_implementation():
    batch = pictures(rows=2)
    got = augment.gaussian_blur(batch, KEYS[:2], (0.3, 1.6))
    for row, key in enumerate(KEYS[:2].tolist()):
        sigma = 0.3 + float(keyed.rng(key, "gaussian blur").random(2, dtype=np.float32)[0]) * 1.3
        for channel in range(3):
            expected = naive_blur(batch[row, channel].numpy(), sigma, 5)
            np.testing.assert_allclose(got[row, channel].numpy(), expected, atol=1e-9)


def test_blur_keeps_flat_pictures_and_adds_variances():
    flat = torch.full((2, 3, 9, 9), 0.3, dtype=torch.float64)
    torch.testing.assert_close(augment.blur(flat, torch.tensor([0.5, 3.0], dtype=torch.float64), 9), flat)
    dot = torch.zeros(2, 3, 41, 41, dtype=torch.float64)
    dot[:, :, 20, 20] = 1
    sigma = torch.tensor([1.5, 2.0], dtype=torch.float64)
    out = augment.blur(dot, sigma, 20)
    at = torch.arange(-20, 21, dtype=torch.float64)
    for axis in (2, 3):
        profile = out.sum(5 - axis)[:, 0]
        torch.testing.assert_close(profile.sum(1), torch.ones(2, dtype=torch.float64))
        torch.testing.assert_close((profile * at**2).sum(1), sigma**2, rtol=1e-6, atol=0)


def test_blur_of_a_picture_smaller_than_its_kernel():
    assert augment.blur(pictures(height=2, width=3), torch.full((len(KEYS),), 5.0).double(), 15).shape[2:] == (2, 3)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (100, 9), (1, 50)])
def test_cutmix_boxes(height, width):
    keys = torch.arange(400)
    masks = augment.cutmix_boxes(keys, height, width, (0.02, 0.4), 3.3, 0.8)
    assert masks.shape == (400, height, width) and masks.dtype == torch.bool
    shares, ratios = [], []
    for mask in masks.numpy():
        if mask.any():
            ys, xs = np.nonzero(mask)
            tall, wide = np.ptp(ys) + 1, np.ptp(xs) + 1
            assert mask.sum() == tall * wide  # one full box
            shares.append(mask.mean())
            ratios.append(tall / wide)
    if (height, width) == (48, 64):
        assert abs(len(shares) / 400 - 0.8) < 0.06
        assert 0.015 < min(shares) < 0.05 and 0.37 < max(shares) < 0.42 and abs(np.mean(shares) - 0.21) < 0.02
        assert min(ratios) > 0.25 and max(ratios) < 4 and abs(np.mean(np.log(ratios))) < 0.15
        seen = masks.float().mean(0)
        assert seen.min() > 0 and seen[0, 0] < seen[24, 32]  # every pixel, the middle most often


def test_cutmix_takes_the_box_from_the_other_picture():
    batch = pictures()
    others = batch.roll(1, 0)
    mixed, mask = augment.cutmix(batch, others, KEYS)
    assert mask.any((1, 2)).all() and not mask.all((1, 2)).any()
    for row in range(len(KEYS)):
        assert torch.equal(mixed[row][:, mask[row]], others[row][:, mask[row]])
        assert torch.equal(mixed[row][:, ~mask[row]], batch[row][:, ~mask[row]])


def test_bytes_become_floats():
    raw = torch.arange(2 * 4 * 5 * 3, dtype=torch.uint8).reshape(2, 4, 5, 3)
    floats = augment.to_float(raw)
    assert floats.shape == (2, 3, 4, 5) and floats.dtype == torch.float32
    assert floats.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(floats[1, 2, 3, 4], raw[1, 3, 4, 2] / 255)
    expected = (raw.double().numpy() / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(augment.normalise(raw).permute(0, 2, 3, 1), expected, atol=1e-6)
    np.testing.assert_allclose(augment.normalise(floats).permute(0, 2, 3, 1), expected, atol=1e-6)
    torch.testing.assert_close(augment.normalise(raw, (0, 0, 0), (1, 1, 1)), floats)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CALLS)
def test_both_devices_agree(name):
    batch = pictures(torch.float32)
    torch.testing.assert_close(
        CALLS[name](batch.cuda(), KEYS.cuda()).cpu(), CALLS[name](batch, KEYS), rtol=0, atol=2e-5
    )
