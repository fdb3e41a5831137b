"""Every loss against a plain float64 loop, closed forms, and the invariances that give it its name."""

import numpy as np
import pytest
import torch

from vstrain.systems.depth import objective
from vstrain.systems.depth.objective import depth_loss, least_squares, standardise

ALIGN, RHO = ("median_mad", "least_squares"), ("mae", "mse", "trimmed_mae")


def maps(seed: int = 0, batch: int = 3, height: int = 19, width: int = 22):
    generator = torch.Generator().manual_seed(seed)
    prediction, target = torch.rand(2, batch, height, width, generator=generator)
    return prediction, target, torch.rand(batch, height, width, generator=generator) < 0.7


def naive(prediction, target, valid, align, rho):
    """One sample, loops over pixels, float64: (residual term, gradient term)."""
    p, d, v = prediction.numpy().astype(np.float64), target.numpy().astype(np.float64), valid.numpy()
    ps, ds = p[v], d[v]
    if align == "median_mad":
        ends = []
        for x, xs in ((p, ps), (d, ds)):
            median = sorted(xs)[(len(xs) - 1) // 2]
            ends.append((x - median) / np.mean([abs(value - median) for value in xs]))
        residual = ends[0] - ends[1]
    else:
        (a, b), *_ = np.linalg.lstsq(np.stack([ps, np.ones_like(ps)], 1), ds, rcond=None)
        residual = a * p + b - d
    r, m = residual[v], v.sum()
    term = {
        "mae": np.abs(r).sum() / m,
        "mse": (r**2).sum() / (2 * m),
        "trimmed_mae": sum(sorted(np.abs(r))[: int(0.8 * m)]) / (2 * m),
    }[rho]
    gradient = 0.0
    for step in (1, 2, 4, 8):
        total = count = 0
        for y in range(0, p.shape[0], step):
            for x in range(0, p.shape[1], step):
                count += v[y, x]
                for ny, nx in ((y + step, x), (y, x + step)):
                    if ny < p.shape[0] and nx < p.shape[1] and v[y, x] and v[ny, nx]:
                        total += abs(residual[y, x] - residual[ny, nx])
        gradient += total / count
    return term, gradient


@pytest.mark.parametrize("align", ALIGN)
@pytest.mark.parametrize("rho", RHO)
def test_equals_the_naive_implementation(align, rho):
    prediction, target, valid = maps()
    expected = np.array([naive(*sample, align, rho) for sample in zip(prediction, target, valid, strict=True)])
    residual, gradient = depth_loss(prediction, target, valid, align, rho)
    np.testing.assert_allclose(residual.numpy(), expected[:, 0], rtol=2e-5)
    np.testing.assert_allclose(gradient.numpy(), expected[:, 1], rtol=2e-5)


def test_closed_form_of_the_v1_term():
    """0 1 2 3 4 against 0 0 0 0 5: medians 2 and 0, mean absolute deviations 6/5 and 1."""
    prediction, target = torch.tensor([[[0.0, 1, 2, 3, 4]]]), torch.tensor([[[0.0, 0, 0, 0, 5]]])
    valid = torch.ones(1, 1, 5, dtype=torch.bool)
    residual, gradient = depth_loss(prediction, target, valid, "median_mad", "mae")
    # p^ = -5/3 -5/6 0 5/6 5/3, d^ = 0 0 0 0 5: |R| = 5/3 5/6 0 5/6 10/3
    assert residual.item() == pytest.approx((5 / 3 + 5 / 6 + 0 + 5 / 6 + 10 / 3) / 5)
    # R = -5/3 -5/6 0 5/6 -10/3; steps at scale 1: 5/6 x 3 + 25/6 over 5; scale 2 (-5/3 0 -10/3): 5/3 + 10/3
    # over 3; scale 4 (-5/3 -10/3): 5/3 over 2; scale 8: one pixel
    assert gradient.item() == pytest.approx((3 * 5 / 6 + 25 / 6) / 5 + 5 / 3 + 5 / 6)


@pytest.mark.parametrize("rho", RHO)
def test_median_mad_ignores_scale_and_shift_of_both_maps(rho):
    prediction, target, valid = maps(1)
    reference = depth_loss(prediction, target, valid, "median_mad", rho)
    moved = depth_loss(7 * prediction - 3, 0.2 * target + 11, valid, "median_mad", rho)
    torch.testing.assert_close(moved, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rho", RHO)
def test_least_squares_ignores_scale_and_shift_of_the_prediction_and_scales_with_the_target(rho):
    prediction, target, valid = maps(2)
    reference = depth_loss(prediction, target, valid, "least_squares", rho)
    moved = depth_loss(-7 * prediction - 3, target, valid, "least_squares", rho)
    torch.testing.assert_close(moved, reference, rtol=1e-4, atol=1e-5)
    doubled = depth_loss(prediction, 2 * target + 5, valid, "least_squares", rho)
    torch.testing.assert_close(doubled[0], reference[0] * (4 if rho == "mse" else 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("align", ALIGN)
def test_an_affine_copy_costs_nothing_and_a_planted_error_costs(align):
    _, target, valid = maps(3)
    copy = 3 * target + 1
    assert max(term.max().item() for term in depth_loss(copy, target, valid, align, "mae")) < 1e-5
    y, x = torch.nonzero(valid[0])[40].tolist()
    copy[0, y, x] += 1
    residual, gradient = depth_loss(copy, target, valid, align, "mae")
    assert residual[0] > 1e-4 and gradient[0] > 1e-4 and residual[1] < 1e-5


@pytest.mark.parametrize("align", ALIGN)
@pytest.mark.parametrize("rho", RHO)
def test_invalid_pixels_change_neither_loss_nor_gradient(align, rho):
    prediction, target, valid = maps(4)
    results = []
    for junk in (0.0, 1e6):
        p = torch.where(valid, prediction, junk).requires_grad_()
        terms = depth_loss(p, torch.where(valid, target, -junk), valid, align, rho)
        sum(term.sum() for term in terms).backward()
        assert (p.grad[~valid] == 0).all()
        results.append((*terms, p.grad))
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)


@pytest.mark.parametrize("align", ALIGN)
@pytest.mark.parametrize("rho", RHO)
@pytest.mark.parametrize("case", ["no valid pixel", "one valid pixel", "constant prediction", "constant target"])
def test_degenerate_maps_stay_finite(align, rho, case):
    prediction, target, valid = maps(5)
    if case == "no valid pixel":
        valid[1] = False
    elif case == "one valid pixel":
        valid[1] = False
        valid[1, 3, 3] = True
    elif case == "constant prediction":
        prediction[1] = 0.3
    else:
        target[1] = 0.3
    prediction.requires_grad_()
    terms = depth_loss(prediction, target, valid, align, rho)
    sum(term.sum() for term in terms).backward()
    assert all(term.isfinite().all() for term in terms) and prediction.grad.isfinite().all()
    if "valid" in case:
        assert terms[0][1] == 0 and terms[1][1] == 0 and (prediction.grad[1] == 0).all()


def test_gradient_against_finite_differences():
    prediction, target, valid = (x[:1, :6, :7] for x in maps(6))
    for align in ALIGN:

        def total(p, align=align):
            residual = objective.aligned_residual(p, target.double(), valid, align)
            return objective.residual_cost(residual, valid, "mse") + objective.gradient_cost(residual, valid)

        assert torch.autograd.gradcheck(total, prediction.double().requires_grad_(), eps=1e-7, atol=1e-4)


def test_statistics_run_over_valid_pixels_only():
    """The planted mistake is the one of the released snippet: a median over the zeros of masked pixels."""
    _, x, valid = maps(7)
    valid[0, :12] = False
    standard = standardise(x, valid)
    for sample, keep in zip(standard, valid, strict=True):
        assert sample[keep].median().item() == 0
        assert sample[keep].abs().mean().item() == pytest.approx(1, abs=1e-5)
    masked = torch.where(valid, x, 0).flatten(1).median(1).values
    assert masked[0] == 0 and standard[0].flatten()[valid[0].flatten()].abs().max() > 0


def test_least_squares_closed_form_agrees_with_numpy():
    prediction, target, valid = maps(8)
    scale, shift = least_squares(prediction, target, valid)
    for i in range(len(valid)):
        x, y = prediction[i][valid[i]].double().numpy(), target[i][valid[i]].double().numpy()
        a, b = np.polyfit(x, y, 1)
        assert scale[i].item() == pytest.approx(a, rel=1e-4) and shift[i].item() == pytest.approx(b, rel=1e-4)


def test_samples_do_not_see_each_other():
    prediction, target, valid = maps(9)
    together = depth_loss(prediction, target, valid, "median_mad", "trimmed_mae")
    for i in range(3):
        alone = depth_loss(prediction[i : i + 1], target[i : i + 1], valid[i : i + 1], "median_mad", "trimmed_mae")
        assert torch.equal(alone[0][0], together[0][i]) and torch.equal(alone[1][0], together[1][i])


def test_half_precision_predictions_are_computed_in_float32():
    prediction, target, valid = maps(10)
    half = prediction.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = depth_loss(half, target, valid, "least_squares", "mse")
    expected = depth_loss(half.float(), target, valid, "least_squares", "mse")
    assert loss[0].dtype == torch.float32 and torch.equal(loss[0], expected[0]) and torch.equal(loss[1], expected[1])
