"""The report's numbers and baselines."""

import numpy as np
import pytest
import torch

from vstrain.systems.multiview import cameras, evaluate


def test_psnr_closed_form():
    truth = torch.zeros(2, 3, 3, 4, 4)
    off = truth.clone()
    off[0] += 0.2  # 0.1 of the range: 20 dB
    off[1, :2] += 0.02  # two views of 40 dB, one without error
    assert evaluate.psnr(off, truth).tolist() == pytest.approx([20, (40 + 40 + 100) / 3], rel=1e-4)


def test_nearest_view_is_the_nearest_present_one(make_config, make_batch):
    batch = make_batch(make_config(targets=3))
    for present in (torch.ones(3, 4, dtype=torch.bool), torch.tensor([[True, False, True, False]] * 3)):
        nearest = evaluate.nearest_views({**batch, "present": present})
        for b in range(3):
            angles = torch.atan2(batch["code"][b, :, 4:6], batch["code"][b, :, 7:9]).rad2deg().tolist()
            position = torch.from_numpy(np.stack([cameras.orbit(e, a, 1.0)[:3, 3] for e, a in angles]))
            for t in range(3):
                distance = (position[3:] - position[t]).norm(dim=1).masked_fill(~present[b], torch.inf)
                assert torch.equal(nearest[b, t], batch["conditions"][b, distance.argmin()])


def test_report_counts_padding_once(make_config, make_system, make_batch):
    config = make_config(targets=2)
    system, batch = make_system(config), make_batch(config)
    padded = {name: torch.cat([value, value[-1:]]) for name, value in batch.items()}
    padded["weight"] = torch.tensor([1.0, 1, 1, 0])
    plain, weighted = (evaluate.report(system, [], [b]).metrics for b in (batch, padded))
    for name in ("model/psnr", "nearest_view/psnr", "mean_view/psnr"):
        assert weighted[name] == pytest.approx(plain[name], rel=1e-4)
    assert plain["mean_view/psnr"] != plain["nearest_view/psnr"]
