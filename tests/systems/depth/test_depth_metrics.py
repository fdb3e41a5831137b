"""Scores and alignment against an independent float64 loop, and closed forms."""

import math

import numpy as np
import pytest
import torch

from vstrain.systems.depth.metrics import METRICS, scale_and_shift, scores


def maps(seed=0, batch=3, size=9):
    generator = torch.Generator().manual_seed(seed)
    truth = 0.5 + 10 * torch.rand(batch, size, size, generator=generator, dtype=torch.float64)
    predicted = truth * (0.6 + torch.rand(batch, size, size, generator=generator, dtype=torch.float64))
    return predicted, truth, torch.rand(batch, size, size, generator=generator) < 0.7


def naive(predicted, truth, counted):
    """One map at a time, one pixel at a time."""
    rows = [(p, t) for p, t, c in zip(predicted.ravel(), truth.ravel(), counted.ravel(), strict=True) if c]
    n = len(rows)
    g = [math.log(p) - math.log(t) for p, t in rows]
    found = {
        "abs_rel": sum(abs(p - t) / t for p, t in rows) / n,
        "sq_rel": sum((p - t) ** 2 / t for p, t in rows) / n,
        "rmse": math.sqrt(sum((p - t) ** 2 for p, t in rows) / n),
        "rmse_log": math.sqrt(sum(x * x for x in g) / n),
        "log10": sum(abs(math.log10(p) - math.log10(t)) for p, t in rows) / n,
        "silog": 100 * math.sqrt(sum(x * x for x in g) / n - (sum(g) / n) ** 2),
    }
    for k in (1, 2, 3):
        found[f"delta{k}"] = sum(max(p / t, t / p) < 1.25**k for p, t in rows) / n
    return found


def test_every_score_equals_a_loop_over_pixels():
    predicted, truth, counted = maps()
    found = scores(predicted, truth, counted)
    assert tuple(found) == METRICS
    for i in range(len(truth)):
        expected = naive(predicted[i].numpy(), truth[i].numpy(), counted[i].numpy())
        assert 0.1 < expected["delta1"] < expected["delta2"] < 1
        for name in METRICS:
            assert found[name].dtype == torch.float64
            assert found[name][i].item() == pytest.approx(expected[name], rel=1e-12), name


def test_pixels_that_do_not_count_do_not_matter():
    predicted, truth, counted = maps(1)
    spoiled = [torch.where(counted, x, bad) for x, bad in ((predicted, torch.nan), (truth, 0.0))]
    for name, value in scores(*spoiled, counted).items():
        assert torch.equal(value, scores(predicted, truth, counted)[name]), name


def test_a_perfect_map_scores_zero_and_one():
    _, truth, counted = maps(2)
    for name, value in scores(truth, truth, counted).items():
        assert torch.equal(value, torch.full((3,), float(name.startswith("delta")), dtype=torch.float64)), name


def test_closed_forms_of_a_constant_factor():
    _, truth, counted = maps(3)
    found = scores(1.5 * truth, truth, counted)
    assert found["abs_rel"].numpy() == pytest.approx(0.5)
    assert found["rmse_log"].numpy() == pytest.approx(math.log(1.5))
    assert found["log10"].numpy() == pytest.approx(math.log10(1.5))
    assert found["silog"].numpy() == pytest.approx(0, abs=1e-5)
    assert (found["delta1"] == 0).all() and (found["delta2"] == 1).all()
    limit = scores(1.25 * torch.ones(1, 2, 2), torch.ones(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool))
    assert limit["delta1"].item() == 0, "the bound itself is outside"


def test_a_prediction_that_is_not_positive_misses_every_delta():
    truth = torch.ones(1, 1, 4)
    found = scores(torch.tensor([[[1.0, -1.0, 0.0, 1.0]]]), truth, torch.ones(1, 1, 4, dtype=torch.bool))
    assert [found[f"delta{n}"].item() for n in (1, 2, 3)] == [0.5] * 3
    assert found["abs_rel"].item() == pytest.approx((2 + 1) / 4) and found["rmse_log"].isnan()


def test_a_sample_without_a_counted_pixel_scores_zero():
    predicted, truth, counted = maps(4)
    counted[1] = False
    found = scores(predicted, truth, counted)
    assert all(value[1] == 0 and value[0] != 0 for value in found.values())


def test_alignment_is_the_least_squares_solution():
    predicted, truth, counted = maps(5)
    for how, columns in (("scale_shift", 2), ("scale", 1)):
        scale, shift = scale_and_shift(predicted, truth, counted, how)
        for i in range(3):
            p, t = predicted[i][counted[i]].numpy(), truth[i][counted[i]].numpy()
            design = np.stack((p, np.ones_like(p)), 1)[:, :columns]
            expected = np.linalg.lstsq(design, t, rcond=None)[0].tolist() + [0.0] * (2 - columns)
            assert [scale[i].item(), shift[i].item()] == pytest.approx(expected, rel=1e-9)
    scale, shift = scale_and_shift(predicted, truth, counted, "none")
    assert (scale == 1).all() and (shift == 0).all()
    assert scale_and_shift(0 * predicted, truth, counted, "scale")[0].tolist() == [[[0.0]]] * 3
