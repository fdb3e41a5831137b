"""Hashes of pictures, and which of them are nearly the same."""

from itertools import combinations

import numpy as np
import pytest

from data_pipelines.pictures.examine import BASIS, grey_grid, perceptual_hash
from data_pipelines.pictures.near import distance, near_duplicates
from tests.data_pipelines.pictures_world import scene


def naive(hashes: list[int], bits: int) -> list[int]:
    """Each with each, in order."""
    found = []
    for n, one in enumerate(hashes):
        kept = (m for m in range(n) if found[m] < 0 and bin(hashes[m] ^ one).count("1") <= bits)
        found.append(next(kept, -1))
    return found


@pytest.mark.parametrize("bits", [0, 1, 3, 5, 8])
def test_near_duplicates_are_those_of_comparing_each_with_each(bits):
    rng = np.random.default_rng(bits)
    hashes = [int(one) for one in rng.integers(0, 2**63, 40)] + [0, 2**64 - 1, 2**63]
    for _ in range(300):  # neighbours, and neighbours of neighbours
        one = hashes[rng.integers(len(hashes))]
        for place in rng.choice(64, rng.integers(0, 2 * bits + 2), replace=False):
            one ^= 1 << int(place)
        hashes.append(one)
    found = near_duplicates(np.array(hashes, np.uint64), bits)
    assert found.tolist() == naive(hashes, bits) and (found >= 0).any() and (found < 0).any()


def test_near_duplicates_of_none_and_of_one():
    assert near_duplicates(np.array([], np.uint64), 3).tolist() == []
    assert near_duplicates(np.array([7], np.uint64), 3).tolist() == [-1]
    assert near_duplicates(np.array([7] * 5, np.uint64), 3).tolist() == [-1, 0, 0, 0, 0]


def test_the_hash_is_that_of_a_cosine_transform_written_out():
    np.testing.assert_allclose(BASIS @ BASIS.T, np.eye(8), atol=1e-12)
    grid = grey_grid(scene(5))
    lowest = np.zeros((8, 8))
    for u in range(8):
        for v in range(8):
            wave = np.outer(*(np.cos(np.pi * (2 * np.arange(32) + 1) * k / 64) for k in (u, v)))
            lowest[u, v] = (grid * wave).sum() * (2 if u else 2**0.5) * (2 if v else 2**0.5) / 64
    bits = "".join("01"[int(value > np.median(lowest))] for value in lowest.ravel())
    assert perceptual_hash(grid) == int(bits, 2)


def test_different_pictures_are_far_apart():
    hashes = [perceptual_hash(grey_grid(scene(seed))) for seed in range(60)]
    assert min(bin(one ^ other).count("1") for one, other in combinations(hashes, 2)) > 8


def test_the_distance_is_the_number_of_different_bits():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 2**64 - 1, (2, 100), dtype=np.uint64)
    expected = [bin(a ^ b).count("1") for a, b in zip(one.tolist(), other.tolist(), strict=True)]
    assert distance(one, other).tolist() == expected
