"""What the four projections of the world promise."""

import json

import cv2
import numpy as np
import pytest

from data_pipelines.procedural import build, depth, drag, multiview, story
from data_pipelines.procedural.camera import orbit
from data_pipelines.procedural.config import (
    CONFIGS,
    DepthWorld,
    DragWorld,
    MultiviewWorld,
    StoryWorld,
    splits,
)
from data_pipelines.procedural.creatures import ACTIVITIES, act, character
from data_pipelines.procedural.creatures import build as creature
from data_pipelines.procedural.motion import Motion, follow
from data_pipelines.procedural.scene import Scene, Sky, moved, part
from data_pipelines.procedural.selfcheck import agreement
from data_pipelines.procedural.shade import render
from data_pipelines.procedural.shapes import Box, Cutout
from data_pipelines.procedural.texture import Material
from tests.data_pipelines.production_world import tree
from vstrain.data import kinds

TINY = {
    "depth": DepthWorld(samples=3, val_samples=1, size=24, real_samples=1),
    "story": StoryWorld(samples=2, val_samples=1, size=16, shots=2, frames=2),
    "multiview": MultiviewWorld(samples=2, val_samples=1, size=16, targets=1),
    "drag": DragWorld(samples=3, val_samples=1, moving_samples=1, size=32, frames=4, tracks=64, videos=True),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_samples_are_of_their_kind_and_shards_are_the_same_bytes_for_any_number_of_processes(kind, tmp_path):
    seen = []
    for processes in (1, 2):
        build.build(kind, TINY[kind], tmp_path / str(processes), processes, lambda *step: seen.append(step))
    names = [sorted(p.name for p in (tmp_path / side).glob("*.tar")) for side in "12"]
    assert names[0] == names[1] == sorted(f"{split}-000000.tar" for split in splits(TINY[kind]))
    assert tree(tmp_path / "1") == tree(tmp_path / "2") and build.complete(tmp_path / "1")
    assert ("train", TINY[kind].samples, TINY[kind].samples) in seen
    kinds.check(kind, build.make(kind, TINY[kind], "train", 0))


def test_digest_tells_configs_apart():
    assert build.config_digest("depth", DepthWorld()) == build.config_digest("depth", DepthWorld(size=128))
    assert build.config_digest("depth", DepthWorld()) != build.config_digest("depth", DepthWorld(seed=1))


# ---- depth ----------------------------------------------------------------------------------------------------------


def test_depth_varies_far_more_than_its_mean_map():
    config = DepthWorld(size=24)
    disparity = []
    for index in range(24):
        metres = depth.make(config, "train", index)["depth.pco"]
        assert metres[metres > 0].min() > 0.2 and metres.max() <= 30
        disparity.append(np.where(metres > 0, 1 / np.maximum(metres, 1e-3), 0))
    spread = np.stack(disparity) / np.max(disparity, axis=(1, 2), keepdims=True)
    assert (spread - spread.mean(0)).std() > 0.4 * spread.std()


def test_the_real_look_is_noisier_than_the_synthetic_one():
    def grain(split):
        pictures = [depth.make(DepthWorld(size=48), split, k)["jpg"].astype(float) for k in range(8)]
        return np.mean(
            [np.abs(np.diff(p, axis=1) - np.roll(np.diff(p, axis=1), 1, 0)).mean() / p.std() for p in pictures]
        )

    assert grain("train_real") > 1.2 * grain("train")
    assert depth.make(DepthWorld(size=24), "val_real", 0)["json"]["look"] == "real"


# ---- multiview ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def views():
    return [multiview.make(MultiviewWorld(size=64, targets=6), "train", index) for index in range(3)]


def test_views_agree_with_their_cameras(views):
    assert all(agreement(sample).good for sample in views)


PLANTED = {
    "OpenCV axes": lambda c2w: c2w @ np.diag([1.0, -1.0, -1.0, 1.0]),
    "azimuth turned by 90 degrees for the eye alone": lambda c2w: np.block(
        [[c2w[:3, :3], np.array([[-c2w[1, 3]], [c2w[0, 3]], [c2w[2, 3]]])], [np.zeros((1, 3)), 1]]
    ),
    "world to camera": np.linalg.inv,
    "mirrored": lambda c2w: np.diag([1.0, 1.0, -1.0, 1.0]) @ c2w,
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_a_wrong_camera_convention_is_noticed(views, mistake):
    for sample in views:
        cameras = json.loads(json.dumps(sample["camera.json"]))
        for view in cameras["views"]:
            view["c2w"] = PLANTED[mistake](np.array(view["c2w"])).tolist()
        assert not agreement({**sample, "camera.json": cameras}).good


def test_cameras_follow_the_named_layouts(views):
    listed = views[0]["camera.json"]["views"]
    assert [v["azim"] for v in listed[:4]] == [0, 90, 180, 270] and {v["elev"] for v in listed[:4]} == {0}
    assert [(v["azim"], v["elev"]) for v in listed[4:10]] == [
        (30, 20),
        (90, -10),
        (150, 20),
        (210, -10),
        (270, 20),
        (330, -10),
    ]
    assert len({(v["fovy"], v["radius"]) for v in listed}) == 1
    np.testing.assert_allclose(orbit(0, 90, 2, 40).position, [0, 2, 0], atol=1e-12)
    np.testing.assert_allclose(orbit(30, 0, 2, 40).c2w[:3, 2], [np.sqrt(0.75), 0, 0.5], atol=1e-12)  # back


def test_objects_fill_a_sphere_of_radius_one_half_and_are_not_cut():
    rng = np.random.default_rng(0)
    for _ in range(10):
        parts, matrix = multiview.normalised(multiview.thing(rng)[0])
        points = np.concatenate([one.to_world(one.shape.outline) for one in parts], axis=1)
        np.testing.assert_allclose(np.linalg.norm(points, axis=0).max(), 0.5, rtol=1e-9)
        np.testing.assert_allclose(points.min(1) + points.max(1), 0, atol=1e-9)
        assert matrix[0, 0] == matrix[1, 1] == matrix[2, 2] > 0
    alpha = multiview.make(MultiviewWorld(size=32, targets=1), "val", 0)["rgba_000.png"][..., 3]
    assert not alpha[[0, -1]].any() and not alpha[:, [0, -1]].any() and alpha.max() == 255


# ---- story ----------------------------------------------------------------------------------------------------------


def test_a_character_is_the_same_in_every_activity_and_place():
    who = character(np.random.default_rng(5), "Pip", "red")
    still = creature(who)
    for activity in ACTIVITIES:
        for t in (0.0, 0.4, 1.0):
            parts = act(who, activity, t, 0.7, (0.3, 0.1, 0.0), 20.0, 0)
            assert [(p.shape, p.material, p.grain.tolist()) for p in parts if p.shape.flat] == [
                (p.shape, p.material, p.grain.tolist()) for p in still if p.shape.flat
            ]
            assert [p.material for p in parts] == [p.material for p in still]
            np.testing.assert_allclose([p.scale for p in parts], [p.scale for p in still])


def test_captions_tell_who_does_what_where_and_shots_tile_the_video():
    config = StoryWorld(size=16, shots=3, frames=3)
    for index in range(4):
        sample = story.make(config, "train", index)
        facts = sample["json"]
        assert [(s["start"], s["end"]) for s in facts["shots"]] == [(0, 3), (3, 6), (6, 9)] and len(sample["mp4"]) == 9
        for shot in facts["shots"]:
            for name in shot["characters"]:
                assert f"{name}, {facts['characters'][name]}," in shot["caption"]
            assert shot["activity"].removesuffix("s") in shot["caption"]
            assert shot["caption"].endswith(story.WHERE[shot["background"]])


def test_cuts_are_hard_and_shots_move():
    video = story.make(StoryWorld(size=32, shots=2, frames=6), "train", 1)["mp4"].astype(float)
    change = np.abs(np.diff(video, axis=0)).mean(axis=(1, 2, 3))
    assert change[5] > 2 * np.delete(change, 5).max() and np.delete(change, 5).min() > 0


# ---- drag -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "moving"])
def test_handles_and_targets_move_inside_the_mask(split):
    config = DragWorld(size=48, frames=5)
    for index in range(8):
        sample = drag.make(config, split, index)
        points = sample["points.json"]
        handles, targets = np.array(points["handles"]), np.array(points["targets"])
        assert 1 <= len(handles) <= 20 and handles.shape == targets.shape
        assert np.linalg.norm(handles - targets, axis=1).min() >= 2 * 48 / 64
        for xy in (handles, targets):
            assert xy.min() >= 0 and xy.max() <= 47
            x, y = np.round(xy).astype(int).T
            assert (sample["mask.png"][y, x] == 255).all()
        if split == "train":
            gap = np.abs(sample["src.webp"].astype(int) - sample["tgt.webp"].astype(int)).max(axis=2)
            assert gap[sample["mask.png"] == 0].max() <= drag.CHANGED
        assert sample["meta.json"]["camera"] == ("moving" if split == "moving" else "still")


@pytest.mark.parametrize("moving_camera", [False, True])
def test_tracks_keep_their_colour_and_hide_behind_nearer_things(moving_camera):
    size, agree, planted, hidden = 96, [], [], 0
    for seed in range(6):
        film = drag.clip(np.random.default_rng(seed), 3, moving_camera)
        y, x = (axis.ravel().astype(float) for axis in np.mgrid[4:size:7, 4:size:7])
        tracks = follow(film.frames, x, y, size)
        shots = [
            render(Scene(parts, [], Sky(*[(1, 1, 1)] * 3)), camera, size, size, lit=False)
            for parts, camera in film.frames
        ]
        for frame in (1, 2):
            seen = tracks.visible[frame]
            xy, colour = tracks.xy[frame, seen], shots[0].rgb[y[seen].astype(int), x[seen].astype(int)].astype(float)
            for shift, errors in ((0, agree), (3, planted)):
                found = cv2.remap(shots[frame].rgb, xy[None] + np.float32(shift), None, cv2.INTER_LINEAR)[0].astype(
                    float
                )
                errors.append(np.abs(found - colour).mean(axis=1))
            inside = ~seen & (tracks.xy[frame].min(1) > 0) & (tracks.xy[frame].max(1) < size - 1)
            hidden += inside.sum()
    agree, planted = np.concatenate(agree), np.concatenate(planted)
    assert np.median(agree) < 6 and np.mean(agree < 40) > 0.9
    assert planted.mean() > 1.7 * agree.mean()
    assert hidden > 20


def test_tracks_of_standing_things_are_where_depth_says():
    size = 64
    film = drag.clip(np.random.default_rng(3), 4, True)
    y, x = (axis.ravel().astype(float) for axis in np.mgrid[2:size:3, 2:size:3])
    tracks = follow(film.frames, x, y, size)
    np.testing.assert_allclose(tracks.xy[0], np.stack([x, y], 1), atol=1e-4)
    assert tracks.visible[0].all()
    (parts, camera), (last_parts, last) = film.frames[0], film.frames[-1]
    first, final = (
        render(Scene(p, [], Sky(*[(1, 1, 1)] * 3)), c, size, size, lit=False)
        for p, c in ((parts, camera), (last_parts, last))
    )
    stands = np.array([one.group < 0 for one in parts])[first.part[y.astype(int), x.astype(int)]]
    lifted = camera.position[:, None] + first.depth[y.astype(int), x.astype(int)] * camera.rays(x, y, size, size)
    px, py, z = last.project(lifted, size, size)
    np.testing.assert_allclose(tracks.xy[-1, stands], np.stack([px, py], 1)[stands], atol=1e-3)
    framed = stands & (np.abs(px - 31.5) < 31) & (np.abs(py - 31.5) < 31)
    column, row = np.round(px[framed]).astype(int), np.round(py[framed]).astype(int)
    in_sight = z[framed] < 1.05 * final.depth[row, column]
    assert (in_sight == tracks.visible[-1, framed]).mean() > 0.95 and framed.sum() > 100


def test_points_of_a_bent_sheet_follow_its_bend_and_are_hidden_by_a_lid():
    grey = Material("plain", ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    square = (((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)),)
    sheet = part(Cutout(square), grey, (0, 0, 0), 1, group=0)
    lid = part(Box(), grey, (0, 9, 0.5), (0.3, 3, 0.1))
    camera = orbit(90, 0, 4, 60)
    bent = Motion(np.zeros(3), bend=0.5).pose([sheet], 1.0, 0)
    over = moved([lid], (0, -9, 0))
    y, x = (axis.ravel().astype(float) for axis in np.mgrid[20:45:3, 20:45:3])
    tracks = follow([([sheet, lid], camera), ([*bent, *over], camera)], x, y, 64)
    rest = camera.position[:, None] + 4 * camera.rays(x, y, 64, 64)
    goal = rest + np.array([[0.5], [0.0], [0.0]]) * rest[1] ** 2
    np.testing.assert_allclose(tracks.xy[1], np.stack(camera.project(goal, 64, 64)[:2], 1), atol=1e-3)
    shadow = np.abs(goal[0]) < 0.3
    beside = np.abs(goal[0]) > 0.4
    assert shadow.any() and not tracks.visible[1, shadow].any() and tracks.visible[1, beside].all()
