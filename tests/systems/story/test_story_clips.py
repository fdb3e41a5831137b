"""A story whose video is a Clip gives the items of the same frames as an array, and decodes few of them."""

from __future__ import annotations

import numpy as np
import pytest

from vstrain.data import codecs
from vstrain.systems.story.image.prepare import prepare as prepare_image
from vstrain.systems.story.motion.prepare import prepare as prepare_motion


@pytest.mark.parametrize(("name", "prepare"), [("story_image", prepare_image), ("story_motion", prepare_motion)])
def test_clips_and_arrays_give_the_same_items(name, prepare, story, make_config):
    config, sample = make_config(name), story(shots=8, length=16, size=32)
    data = codecs.encode("mp4", sample["mp4"])
    for seed in range(5):
        clip = codecs.decode("mp4", data)
        item = prepare(sample | {"mp4": clip}, config, np.random.default_rng(seed), True)
        again = prepare(
            sample | {"mp4": np.asarray(codecs.decode("mp4", data))}, config, np.random.default_rng(seed), True
        )
        assert all((item[key] == again[key]).all() for key in again)
        assert 0 < clip.decoder.decoded <= 2 * codecs.GOP < 8 * 16
