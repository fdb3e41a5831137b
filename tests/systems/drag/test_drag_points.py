"""Rasterising points, and the network that reads the maps."""

import numpy as np
import pytest
import torch

from vstrain.systems.drag.point_network import PointNetwork, encode_ids
from vstrain.systems.drag.points import rasterise


def test_every_point_is_one_pixel_with_its_number():
    maps = rasterise([[1, 2], [5, 0]], [[3, 3], [0, 4]], height=6, width=8)
    assert maps.shape == (2, 6, 8) and maps.dtype == np.int32
    assert maps[0, 2, 1] == 1 and maps[0, 0, 5] == 2 and maps[1, 3, 3] == 1 and maps[1, 4, 0] == 2
    assert np.count_nonzero(maps) == 4


@pytest.mark.parametrize(("x", "pixel"), [(2.49, 2), (2.5, 3), (1.5, 2), (-0.5, 0), (7.49, 7)])
def test_points_round_to_the_nearest_pixel(x, pixel):
    assert rasterise([[x, 0]], [[0, 0]], 4, 8)[0, 0, pixel] == 1


def test_a_later_pair_wins_a_shared_pixel():
    maps = rasterise([[1, 1], [1.3, 0.8], [2, 2]], [[0, 0], [3, 3], [3.2, 3.4]], 4, 4)
    assert maps[0, 1, 1] == 2 and maps[1, 3, 3] == 3


@pytest.mark.parametrize("point", [(-0.51, 1), (8, 1), (7.5, 1), (1, 6), (1, -1), (float("nan"), 1)])
def test_a_point_outside_is_an_error_that_names_it(point):
    with pytest.raises(ValueError, match=r"target 2 at .* is outside of the 8x6 picture"):
        rasterise([[0, 0], [1, 1]], [[0, 0], point], height=6, width=8)


def test_handles_need_targets():
    with pytest.raises(ValueError, match="2 handles and 1 targets"):
        rasterise([[0, 0], [1, 1]], [[0, 0]], 4, 4)


def test_more_than_twenty_pairs_warn():
    points = [[k % 8, k // 8] for k in range(21)]
    with pytest.warns(UserWarning, match="21 point pairs"):
        assert rasterise(points, points, 8, 8).max() == 21


def test_a_disc_is_round_and_cut_at_the_border():
    plane = rasterise([[0, 3]], [[4, 4]], 9, 9, radius=2)[0]
    yy, xx = np.mgrid[:9, :9]
    np.testing.assert_array_equal(plane > 0, xx**2 + (yy - 3) ** 2 <= 4)


def test_published_network_has_its_weights_and_taps():
    with torch.device("meta"):
        network = PointNetwork(embed_dim=16, stride=8, levels=4, encoding="raw")
        taps = network(torch.zeros(1, 2, 512, 512, dtype=torch.int32))
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 13 and all(m.bias is None and m.kernel_size == (3, 3) for m in convolutions)
    assert sum(p.numel() for p in network.parameters()) == 75_479_616
    assert [tuple(h.shape[1:]) for h, _ in taps] == [(128, 64, 64), (256, 32, 32), (512, 16, 16), (1024, 8, 8)]
    assert all(h.shape == t.shape for h, t in taps) and network.channels == [128, 256, 512, 1024]


@pytest.mark.parametrize("encoding", ["raw", "normalised", "sinusoidal"])
def test_no_points_give_exactly_zero(encoding):
    torch.manual_seed(0)
    network = PointNetwork(4, stride=2, levels=2, encoding=encoding)
    for tap in network(torch.zeros(1, 2, 16, 16, dtype=torch.int32)):
        assert all((half == 0).all() for half in tap)


@pytest.mark.parametrize("encoding", ["raw", "normalised", "sinusoidal"])
def test_a_point_acts_only_near_itself(encoding):
    """Receptive radius of the first tap at stride 2: 1 (first) + 1 (stride 2) + 2 * 1 (behind it) = 4 pixels."""
    torch.manual_seed(0)
    network = PointNetwork(4, stride=2, levels=1, encoding=encoding)
    maps = torch.zeros(1, 2, 32, 32, dtype=torch.int32)
    maps[0, 0, 16, 16] = 3
    felt = torch.cat(network(maps)[0], 1).abs().sum((0, 1)) > 0
    rows, columns = torch.nonzero(felt, as_tuple=True)
    assert len(rows) and ((2 * rows - 16).abs() <= 4).all() and ((2 * columns - 16).abs() <= 4).all()


def test_encodings_tell_all_twenty_numbers_apart():
    maps = torch.arange(21, dtype=torch.int32).view(1, 1, 1, 21).expand(1, 2, 1, 21)
    for encoding in ("raw", "normalised", "sinusoidal"):
        codes = encode_ids(maps, encoding)[0, :, 0].T
        gaps = torch.cdist(codes, codes) + torch.eye(21)
        assert gaps.min() > 0.04, encoding
    assert encode_ids(maps, "normalised").max() == 1 and encode_ids(maps, "raw").max() == 20
