"""Every system's demo from its rendered shards to a validation picture, through the command and the loader; depth has runs of its
own."""

from __future__ import annotations

import json

import cv2
import pytest

from tests.conftest import TINY


@pytest.mark.parametrize("experiment", ["story_image", "story_motion", "multiview_boost", "drag_editor"])
def test_the_demo_trains_and_draws(experiment, vstrain, tmp_path):
    words = [*TINY, "data.workers=1", "system.sampling.steps=2", f"run.dir={tmp_path / 'run'}"]
    vstrain(f"experiment={experiment}", *words)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == [1, 2]
    assert any("val/loss" in line for line in lines)
    (picture,) = (tmp_path / "run" / "pictures").glob("*step*2*.*")
    assert cv2.imread(str(picture)).std() > 10
