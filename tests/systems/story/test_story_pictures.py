import numpy as np
import torch

from vstrain.systems.story import pictures
from vstrain.systems.story.frames import caption_bytes, caption_text


def test_captions_travel_as_bytes():
    assert caption_text(caption_bytes("a red ball, rolls")) == "a red ball, rolls"
    assert caption_text(caption_bytes("x" * 500)) == "x" * 256
    assert caption_text(caption_bytes("café")) == "caf?"


def test_grid_holds_the_pictures_in_order():
    images = torch.stack([torch.full((3, 8, 8), value) for value in (-1.0, 0.0, 1.0)])
    captions = np.stack([[caption_bytes("first"), caption_bytes("second"), caption_bytes("third")]])
    grid = pictures.stories({"data": images[None], "again": images.flip(0)[None]}, captions)
    side = pictures.TILE + pictures.GAP
    centres = 76 + pictures.GAP + side * np.arange(3) + pictures.TILE // 2
    assert grid[pictures.TILE // 2, centres, 0].tolist() == [0, 128, 255]
    assert grid[side + pictures.TILE // 2, centres, 0].tolist() == [255, 128, 0]


def test_given_frames_are_framed():
    images = torch.zeros(1, 4, 3, 8, 8)
    grid = pictures.clips({"data": images}, np.stack([caption_bytes("a clip")]), {0, 3})
    marked = (grid == np.array(pictures.MARK)).all(axis=2)
    columns = np.flatnonzero(marked.any(axis=0))
    assert columns.min() == 76 + pictures.GAP
    inner = 76 + pictures.GAP + pictures.TILE
    assert not marked[:, inner : inner + 2 * (pictures.TILE + pictures.GAP)].any()
