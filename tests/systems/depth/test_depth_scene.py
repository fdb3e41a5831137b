"""Cameras, sharp edges, warps, stereo, meshes and their files against closed forms and independent readers."""

import io
import json
import struct

import numpy as np
import pytest
from PIL import Image

from tests.systems.depth.conftest import KEYS
from vstrain.systems.depth.config import Parallax, Predict, Stereo
from vstrain.systems.depth.scene import parallax, stereo, warp
from vstrain.systems.depth.scene.camera import Camera, Scene, camera_of, over_range
from vstrain.systems.depth.scene.edges import sharpen
from vstrain.systems.depth.scene.files import write_glb, write_ply
from vstrain.systems.depth.scene.mesh import cloud, lattice, mesh
from vstrain.systems.depth.scene.still import write_jpeg

OPTIONS, EDGE = Predict(**KEYS["predict"]), 0.05


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def two_planes(height=60, width=80):
    """A red-free wall (disparity 0) behind a card (disparity 1) whose every pixel is pure red."""
    picture, unit = noise(height, width), np.zeros((height, width), np.float32)
    picture[..., 0] = 0
    picture[15:45, 30:50], unit[15:45, 30:50] = (255, 0, 0), 1
    return picture, unit


def scene(height=60, width=80, metric=False):
    picture, unit = two_planes(height, width)
    unit = unit * 0.8 + np.linspace(0, 0.2, width, dtype=np.float32)
    return Scene(picture, over_range(unit)[0], 1 / 8, 1.0, camera_of(height, width, None, 55), metric)


# ---- cameras ----------------------------------------------------------------------------------------------------------


def test_field_of_view_and_35mm_focal_length():
    assert camera_of(300, 400, None, 90).focal == pytest.approx(200)
    for shape in ((3024, 4032), (4032, 3024)):  # upright or not: the diagonal counts
        camera = camera_of(*shape, 26.0, 55)
        assert camera.source == "EXIF" and camera.focal == pytest.approx(26 * 5040 / np.hypot(36, 24), rel=1e-5)
    assert camera_of(24, 36, 18.0, 55).fov == pytest.approx(90, abs=1e-3)  # an 18 mm lens on film
    assert Camera(200, 400, 100, "").yfov == pytest.approx(np.pi / 2)


def test_unprojection_comes_back_to_its_pixel_and_looks_along_minus_z():
    camera = camera_of(3024, 4032, 26.0, 55)
    rng = np.random.default_rng(0)
    rows, columns, depth = rng.uniform(0, 3023, 1000), rng.uniform(0, 4031, 1000), rng.uniform(0.5, 80, 1000)
    points = camera.unproject(rows, columns, depth)
    back = camera.project(points)
    assert max(np.abs(back[0] - rows).max(), np.abs(back[1] - columns).max()) < 1e-3
    np.testing.assert_allclose(-points[:, 2], depth, rtol=1e-6)
    right_top = camera.unproject(np.array(0.0), np.array(4031.0), np.array(1.0))
    assert right_top[0] > 0 and right_top[1] > 0 and right_top[2] < 0
    centre = camera.unproject(np.array(1511.5), np.array(2015.5), np.array(7.0))
    np.testing.assert_allclose(centre, [0, 0, -7], atol=1e-5)


def test_rule_from_disparity_to_depth_is_affine_in_one_over_depth():
    unit = np.linspace(0, 1, 11, dtype=np.float32)[None]
    depth = Scene(noise(1, 11), unit, 1 / 8, 1.0, camera_of(1, 11, None, 55), False).depth[0]
    assert depth[0] == pytest.approx(8) and depth[-1] == pytest.approx(1)
    np.testing.assert_allclose(np.diff(1 / depth), 0.0875, rtol=1e-4)


# ---- edges ------------------------------------------------------------------------------------------------------------


def test_a_blurred_step_becomes_sharp_and_a_slope_stays():
    columns = np.arange(100, dtype=np.float32)
    step = np.tile(((columns - 46) / 8).clip(0, 1), (40, 1))  # from 0 to 1 over eight pixels, half at 50
    sharp = sharpen(step, 8, EDGE)
    assert np.array_equal(np.unique(sharp), [0, 1])
    assert np.argmax(sharp[0]) in (49, 50)  # the near side has grown by one
    slope = np.tile(columns / 99, (40, 1))  # its range in the window is far beyond EDGE
    np.testing.assert_array_equal(sharpen(slope, 4, EDGE)[:, 8:-8], slope[:, 8:-8])


# ---- warps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("right, down", [(3, 0), (-5, 0), (0, 4), (2, -3)])
def test_constant_disparity_is_a_pure_shift(right, down):
    picture, unit = noise(300, 50), np.ones((300, 50), np.float32)  # more rows than a band
    moved, values = warp.shifted(picture, unit, right, down, 0.0, EDGE)
    inner = tuple(slice(max(0, s), n + min(0, s)) for s, n in ((down, 300), (right, 50)))
    origin = tuple(slice(max(0, -s), n + min(0, -s)) for s, n in ((down, 300), (right, 50)))
    assert np.array_equal(moved[inner], picture[origin]) and (values == 1).all()
    rest, _ = warp.shifted(picture, unit, right, down, 1.0, EDGE)
    assert np.array_equal(rest, picture)  # the plane at rest stays, whatever the camera does


def test_half_a_pixel_is_the_mean_of_two():
    picture, unit = noise(20, 30), np.ones((20, 30), np.float32)
    moved, _, hole = warp.warp_rows(picture, unit, 0.5, 0.0, EDGE)
    mean = (picture[:, :-1].astype(float) + picture[:, 1:]) / 2
    assert np.abs(moved[:, 1:] - mean).max() <= 0.5 and hole[:, 0].all() and not hole[:, 1:].any()


def test_nearer_wins_and_holes_are_filled_from_behind():
    picture, unit = two_planes()
    moved, values, hole = warp.warp_rows(picture, unit, 10, 0.0, EDGE)
    card = np.zeros_like(hole)
    card[15:45, 40:60] = True
    assert (moved[card] == (255, 0, 0)).all() and (values[card] == 1).all()
    expected = np.zeros_like(hole)
    expected[15:45, 30:40] = True  # what the card uncovers
    assert np.array_equal(hole, expected)
    filled, values = warp.shifted(picture, unit, 10, 0, 0.0, EDGE)
    assert (filled[~card][:, 0] == 0).all()  # no red outside the card
    assert (values[~card] == 0).all() and np.array_equal(filled[~card & ~hole], picture[~card & ~hole])


def test_holes_mirror_the_surface_behind_but_not_what_stands_beyond():
    picture = np.zeros((9, 20, 3), np.uint8)
    picture[..., 1] = np.arange(20) * 10
    unit, hole = np.full((9, 20), 0.2, np.float32), np.zeros((9, 20), bool)
    hole[:, 10:14], unit[:, 14:] = True, 0.9
    unit[:, :8] = 0.6  # another thing, two pixels before the hole
    filled, values = warp.fill(picture.copy(), unit.copy(), hole, EDGE)
    assert filled[0, 10:14, 1].tolist() == [90, 80, 90, 90]  # mirrored as far as the wall goes, then its rim
    np.testing.assert_allclose(values[:, 10:14], 0.2, atol=1e-6)
    mirrored, _ = warp.fill(picture.copy(), unit[:, ::-1].copy(), hole[:, ::-1].copy(), EDGE)
    assert mirrored[0, 6:10, 1].tolist() == [100, 100, 110, 100]


def test_a_stretching_surface_has_no_cracks():
    picture, unit = noise(10, 200), np.tile(np.linspace(0, 1, 200, dtype=np.float32), (10, 1))
    _, values, hole = warp.warp_rows(picture, unit, 150, 0.0, EDGE)
    assert not hole.any()
    np.testing.assert_allclose(values[0], np.arange(200) / 199 / (1 + 150 / 199), atol=1e-4)


# ---- stereo -----------------------------------------------------------------------------------------------------------


def test_near_things_lie_further_right_in_the_left_view():
    picture, unit = two_planes()
    left, right = stereo.pair(picture, unit, Stereo(shift=10, plane=0.5), EDGE)
    x = [np.nonzero((view[30] == (255, 0, 0)).all(-1))[0].mean() for view in (left, right)]
    assert x[0] - x[1] == pytest.approx(4) and np.mean(x) == pytest.approx(39.5)  # half of 8 pixels before the screen
    joined = stereo.side_by_side(left, right)
    assert joined.shape == (60, 160, 3) and np.array_equal(joined[:, :80], left)


def test_anaglyph_is_the_published_projection():
    left, right = noise(9, 7, 1), noise(9, 7, 2)
    naive = np.zeros((9, 7, 3))
    for i in range(9):
        for j in range(7):
            for k in range(3):
                mixed = 0.0
                for c in range(3):
                    mixed += float(stereo.LEFT[k, c]) * left[i, j, c] + float(stereo.RIGHT[k, c]) * right[i, j, c]
                naive[i, j, k] = min(255, max(0, mixed))
    assert np.abs(stereo.anaglyph(left, right) - naive).max() <= 0.51
    np.testing.assert_allclose((stereo.LEFT + stereo.RIGHT).sum(1), 1, atol=2e-4)


def test_anaglyph_of_grey_in_the_plane_of_the_screen_is_grey():
    grey = np.repeat(noise(40, 60)[..., :1], 3, axis=2)
    left, right = stereo.pair(grey, np.full((40, 60), 0.5, np.float32), OPTIONS.stereo, EDGE)
    assert np.abs(stereo.anaglyph(left, right).astype(int) - grey).max() <= 1
    lit = stereo.anaglyph(np.full((1, 1, 3), 200, np.uint8), np.zeros((1, 1, 3), np.uint8))[0, 0]
    assert lit[0] > 200 and lit[1] == lit[2] == 0  # red before the left eye


def test_jpegs_keep_full_colour_resolution(tmp_path):
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2, 0], stripes[:, 1::2, 1:] = 200, 200
    with Image.open(write_jpeg(tmp_path / "a.jpg", stripes, 95)) as image:
        assert np.abs(np.asarray(image).astype(int) - stripes).mean() < 6


# ---- parallax ---------------------------------------------------------------------------------------------------------


def test_parallax_is_a_closed_smooth_loop():
    steps = parallax.path(120)
    turn = np.linalg.norm(np.diff(np.concatenate([steps, steps[:1]]), axis=0), axis=1)
    assert turn.max() < 2 * np.pi / 120 * 1.001 and np.abs(steps).max() <= 1 and steps[:, 0].max() == 1
    options = Parallax(shift=5, plane=0.5, seconds=1, fps=12, side=64)
    frames = list(parallax.frames(*two_planes(96, 129), options, EDGE))
    assert len(frames) == 12 and {f.shape for f in frames} == {(48, 64, 3)}
    apart = [np.abs(a.astype(float) - b).mean() for a, b in zip(frames, frames[1:] + frames[:1], strict=True)]
    assert 0 < apart[-1] < 1.5 * max(apart[:-1])
    red = [np.nonzero(f[15, :, 0] > 200)[0].mean() for f in (frames[3], frames[9])]
    assert red[0] - red[1] == pytest.approx(64 * 0.05, abs=0.7)  # half of the shift to either side, from the middle


def test_a_flat_picture_is_only_magnified():
    options = Parallax(shift=5, plane=0.5, seconds=1, fps=4, side=64)
    flat = list(parallax.frames(noise(48, 64), np.full((48, 64), 0.5, np.float32), options, EDGE))
    assert all(np.array_equal(frame, flat[0]) for frame in flat)


# ---- clouds, meshes, files --------------------------------------------------------------------------------------------


def read_glb(path):
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON" and size % 4 == 0
    document = json.loads(data[20 : 20 + size])
    extent, kind = struct.unpack_from("<I4s", data, 20 + size)
    assert kind == b"BIN\0" and extent % 4 == 0 and 28 + size + extent == len(data)
    binary = data[28 + size :]
    assert document["buffers"] == [{"byteLength": extent}]

    def view(i):
        part = document["bufferViews"][i]
        return binary[part["byteOffset"] : part["byteOffset"] + part["byteLength"]]

    arrays = []
    for accessor in document["accessors"]:
        dtype = {5126: "<f4", 5125: "<u4"}[accessor["componentType"]]
        assert document["bufferViews"][accessor["bufferView"]]["byteOffset"] % 4 == 0
        shape = (accessor["count"], {"SCALAR": 1, "VEC2": 2, "VEC3": 3}[accessor["type"]])
        arrays.append(np.frombuffer(view(accessor["bufferView"]), dtype).reshape(shape))
    return document, arrays, view(document["images"][0]["bufferView"])


def test_glb_reads_back_byte_for_byte(tmp_path):
    world = scene()
    surface, jpeg = mesh(world, 100_000, EDGE), b"\xff\xd8 any bytes, oddly \xff\xd9"
    write_glb(tmp_path / "a.glb", surface, jpeg, world.camera, world.facts)
    document, (points, texture, faces), image = read_glb(tmp_path / "a.glb")
    assert points.tobytes() == surface.points.tobytes() and texture.tobytes() == surface.texture.tobytes()
    assert faces.tobytes() == surface.faces.tobytes() and image == jpeg
    assert document["accessors"][0]["min"] == points.min(0).tolist()
    assert document["accessors"][0]["max"] == points.max(0).tolist()
    assert document["asset"]["version"] == "2.0" and "55.00 degrees" in document["asset"]["extras"]["camera"]
    assert document["cameras"][0]["perspective"]["yfov"] == pytest.approx(2 * np.arctan(30 / world.camera.focal))
    primitive = document["meshes"][0]["primitives"][0]
    assert primitive["attributes"] == {"POSITION": 0, "TEXCOORD_0": 1} and primitive["indices"] == 2


def test_ply_reads_back_byte_for_byte(tmp_path):
    world = scene()
    points, colours = cloud(world, 10**6)
    write_ply(tmp_path / "a.ply", points, colours, world.facts)
    header, _, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    assert header.startswith(
        b"ply\nformat binary_little_endian 1.0\ncomment camera: horizontal field of view 55.00 degrees"
    )
    assert b"element vertex 4800\nproperty float x\nproperty float y\nproperty float z\nproperty uchar red\n" in header
    rows = [struct.unpack_from("<3f3B", body, 15 * i) for i in range(4800)]
    assert len(body) == 15 * 4800
    assert np.array_equal(np.array([r[:3] for r in rows], np.float32), points)
    assert np.array_equal(np.array([r[3:] for r in rows], np.uint8), colours)
    assert np.array_equal(colours.reshape(60, 80, 3), world.photo)
    np.testing.assert_allclose(-points[:, 2].reshape(60, 80), world.depth)


def test_faces_across_edges_are_left_out_and_the_rest_faces_the_camera():
    world = scene()
    surface = mesh(world, 10**6, EDGE)
    rows, columns = (np.rint(x).astype(int) for x in world.camera.project(surface.points))
    card = (world.photo[rows, columns] == (255, 0, 0)).all(-1)
    kinds = card[surface.faces].sum(1)
    assert set(kinds) == {0, 3}  # no triangle has corners on both
    around = 2 * (30 + 20)  # quads that the outline passes; two at the corners keep the half beside it
    assert len(surface.faces) == 2 * (59 * 79 - around) + 2
    a, b, c = (surface.points[surface.faces[:, i]].astype(float) for i in range(3))
    assert (np.einsum("ij,ij->i", np.cross(b - a, c - a), a) < 0).all()  # counter-clockwise: normals towards the origin
    assert np.array_equal(np.unique(surface.faces), np.arange(len(surface.points)))
    np.testing.assert_allclose(surface.texture, np.stack([(columns + 0.5) / 80, (rows + 0.5) / 60], -1), rtol=1e-6)


@pytest.mark.parametrize("size, most", [((3024, 4032), 250_000), ((60, 80), 10**6), ((2, 9000), 100), ((1, 7), 4)])
def test_lattice_is_even_bounded_and_has_the_corners(size, most):
    rows, columns = lattice(*size, most)
    assert len(rows) * len(columns) <= most
    for axis, length in ((rows, size[0]), (columns, size[1])):
        assert axis[0] == 0 and (axis[-1] == length - 1) and len(np.unique(axis)) == len(axis)


def test_texture_shows_the_photo(tmp_path):
    from vstrain.systems.depth.scene import still

    world = scene()
    (path,) = still.mesh(world, OPTIONS, tmp_path, "a")
    photo = np.asarray(Image.open(io.BytesIO(read_glb(path)[2])))
    assert path.name == "a_mesh.glb" and photo.shape == (60, 80, 3)
    assert photo[30, 40, 0] > 200 > photo[5, 5, 0]  # the red card, red first
