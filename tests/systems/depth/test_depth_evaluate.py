"""Scores, baselines and the report."""

import numpy as np
import pytest
import torch

from vstrain.systems.depth.evaluate import baselines, report
from vstrain.systems.depth.metrics import depth_scores, fit_disparity


def scene(seed=0, batch=3, size=12):
    generator = torch.Generator().manual_seed(seed)
    disparity = torch.rand(batch, size, size, generator=generator)
    span = torch.tensor([[0.05, 0.5], [0.1, 0.2], [0.5, 2.0]])[:batch]
    valid = torch.rand(batch, size, size, generator=generator) < 0.8
    return disparity, span, valid


def test_any_scale_and_shift_of_the_truth_is_perfect():
    disparity, span, valid = scene()
    scores = depth_scores(*fit_disparity(-3 * disparity + 5, disparity, span, valid, 80))
    assert scores["abs_rel"].max() < 1e-6 and (scores["delta1"] == 1).all()


def test_scores_against_numpy():
    disparity, span, valid = scene(1)
    noisy = disparity + 0.2 * torch.randn(disparity.shape, generator=torch.Generator().manual_seed(2))
    scores = depth_scores(*fit_disparity(noisy, disparity, span, valid, cap := 15.0))
    for i in range(3):
        low, high = span[i].double().tolist()
        truth = low + disparity[i].double().numpy() * (high - low)
        keep = valid[i].numpy() & (1 / truth <= cap)
        assert keep.sum() < valid[i].sum() or low > 1 / cap
        a, b = np.polyfit(noisy[i].double().numpy()[keep], truth[keep], 1)
        p, t = 1 / np.maximum(a * noisy[i].double().numpy() + b, 1 / cap)[keep], 1 / truth[keep]
        assert scores["abs_rel"][i].item() == pytest.approx(np.mean(np.abs(p - t) / t), rel=1e-5)
        assert scores["delta1"][i].item() == pytest.approx(np.mean(np.maximum(p / t, t / p) < 1.25), rel=1e-5)


def test_a_sample_without_a_counted_pixel_scores_zero():
    disparity, span, valid = scene()
    valid[1] = False
    scores = depth_scores(*fit_disparity(disparity, disparity, span, valid, 80))
    assert scores["abs_rel"][1] == 0 and scores["delta1"][1] == 0 and scores["delta1"][0] == 1


def test_baselines_are_the_best_of_their_kind():
    disparity, _, valid = scene(3, size=9)
    weight = torch.tensor([1.0, 1.0, 0.0])  # the last one is padding
    batches = [
        {"disparity": d[None], "valid": v[None], "weight": w[None]}
        for d, v, w in zip(disparity, valid, weight, strict=True)
    ]
    mean, plane = baselines(batches, absolute=False).values()
    d, v = disparity[:2].double().numpy(), valid[:2].numpy()
    seen = v.any(0)
    np.testing.assert_allclose(mean.numpy()[seen], (d * v).sum(0)[seen] / v.sum(0)[seen])
    np.testing.assert_allclose(mean.numpy()[~seen], plane.numpy()[~seen])
    y, x = np.mgrid[:9, :9]
    design = np.stack([np.ones_like(x), x, y], -1)
    rows = np.concatenate([design[mask] for mask in v])
    coefficients = np.linalg.lstsq(rows, np.concatenate([a[m] for a, m in zip(d, v, strict=True)]), rcond=None)[0]
    np.testing.assert_allclose(plane.numpy(), design @ coefficients)


def test_report_separates_a_trained_model_from_the_baselines(make_system, scene_batch):
    """A toy world is learned in seconds; the baselines, which see no picture, cannot follow it."""
    system = make_system(image_size=28)
    optimiser = torch.optim.AdamW([p for p in system.parameters() if p.requires_grad], lr=1e-3)
    batches = [scene_batch(28, 16, seed) for seed in range(40)]
    for batch in batches:
        system.objective(batch).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    held_out = [scene_batch(28, 16, 100)]
    result = report(system, batches, held_out)
    assert set(result.metrics) == {f"{n}/{m}" for n in ("model", "mean_map", "plane") for m in ("abs_rel", "delta1")}
    assert result.metrics["model/abs_rel"] < 0.6 * min(
        result.metrics["mean_map/abs_rel"], result.metrics["plane/abs_rel"]
    )
    with torch.no_grad():
        expected = system.evaluate(held_out[0])
    assert result.metrics["model/abs_rel"] == pytest.approx(expected["abs_rel"].mean().item(), rel=1e-5)
    assert expected["loss_shuffled"].mean() > 1.5 * expected["loss"].mean()
    assert f"{result.metrics['plane/delta1']:.3f}" in result.text and "16 held-out images" in result.text


def test_a_metric_report_fits_nothing_and_unlabelled_training_has_no_baselines(make_system, scene_batch):
    system, batch = make_system(output="metric", max_depth=20, depth_cap=20.0), scene_batch()
    metrics = report(system, [batch], [batch]).metrics
    low, high = batch["span"].double().unbind(1)
    truth = low[:, None, None] + batch["disparity"].double() * (high - low)[:, None, None]
    mean = truth.mean(0)
    assert metrics["mean_map/abs_rel"] == pytest.approx((truth / mean - 1).abs().mean().item(), rel=1e-4)
    with torch.no_grad():
        expected = (system(batch["image"]).double() * truth - 1).abs().mean().item()
    assert metrics["model/abs_rel"] == pytest.approx(expected, rel=1e-4)
    batch["valid"] = torch.zeros_like(batch["valid"])
    assert baselines([batch], absolute=False) == {}
