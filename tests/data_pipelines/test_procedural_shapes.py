"""Ray casts against closed forms and against numeric derivatives."""

import numpy as np
import pytest

from data_pipelines.procedural import texture
from data_pipelines.procedural.camera import look_at, orbit, turn
from data_pipelines.procedural.scene import Light, Scene, Sky, cast, part, visibility
from data_pipelines.procedural.shade import render
from data_pipelines.procedural.shapes import GLYPHS, Ball, Box, Cutout, Disc, Frustum, Prism, Room, blob, star
from data_pipelines.procedural.texture import PATTERNS, At, Material

GREY = Material("plain", ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
SKY = Sky((1, 1, 1), (1, 1, 1), (1, 1, 1))
SIZE = 33


def depth_of(*parts, camera):
    return render(Scene(list(parts), [], SKY), camera, SIZE, SIZE).depth


def slopes(camera):
    """Right and up per unit of depth of every pixel, (H, W) each, written out from the pinhole equations."""
    f = SIZE / 2 / np.tan(np.radians(camera.fovy) / 2)
    v, u = np.mgrid[:SIZE, :SIZE]
    return (u - (SIZE - 1) / 2) / f, ((SIZE - 1) / 2 - v) / f


def test_ball_depth_is_the_root_of_the_quadratic():
    camera = orbit(0, 0, 5, 40)
    right, up = slopes(camera)
    # |(5 - z, z right, z up)| = 1
    a, b, c = 1 + right**2 + up**2, -5.0, 24.0
    root = b * b - a * c
    expected = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
    np.testing.assert_allclose(depth_of(part(Ball(), GREY, (0, 0, 0), 1), camera=camera), expected, rtol=1e-12)


def test_plane_depth_is_height_over_slope():
    camera = look_at((0, 0, 2), (1, 0, 1), 50)  # 45 degrees down
    _, up = slopes(camera)
    drop = np.sqrt(0.5) * (1 - up)  # metres down per metre of depth
    expected = np.where(drop > 1e-9, 2 / np.maximum(drop, 1e-9), np.inf)
    np.testing.assert_allclose(depth_of(part(Disc(), GREY, (0, 0, 0), 1e9), camera=camera), expected, rtol=1e-12)


def test_box_face_is_at_constant_depth_and_as_large_as_projected():
    camera = orbit(0, 90, 6, 40)  # on +y: sees the face y = 0.5
    depth = depth_of(part(Box(), GREY, (0, 0, 0), (1, 0.5, 2)), camera=camera)
    right, up = slopes(camera)
    face = (np.abs(right * 5.5) < 1) & (np.abs(up * 5.5) < 2)
    np.testing.assert_allclose(depth[face], 5.5, rtol=1e-12)
    assert np.isinf(depth[~face]).all()


def test_cylinder_depth_is_that_of_a_circle():
    camera = orbit(0, 0, 5, 30)
    right, up = slopes(camera)
    a, b, c = 1 + right**2, -5.0, 24.0
    root = b * b - a * c
    z = (-b - np.sqrt(np.maximum(root, 0))) / a
    expected = np.where((root > 0) & (np.abs(z * up) <= 1), z, np.inf)
    depth = depth_of(part(Frustum(), GREY, (0, 0, 0), 1), camera=camera)
    np.testing.assert_allclose(depth, expected, rtol=1e-12)


def test_room_is_seen_from_within_and_its_walls_are_where_they_should_be():
    depth = depth_of(part(Room(), GREY, (0, 0, 0), (3, 2, 1)), camera=look_at((-1, 0, 0), (1, 0, 0), 20))
    np.testing.assert_allclose(depth, 4.0, rtol=1e-12)


def test_a_ray_passes_through_the_hole_of_a_prism():
    frame = part(Prism(GLYPHS["frame"]), GREY, (0, 0, 0), 1)
    x = np.array([0.0, 0.5, 2.0])  # hole, frame, outside
    o = np.stack([x, 0 * x, 0 * x + 5])
    t, _ = cast([frame], o, np.array([[0.0], [0.0], [-1.0]]) + 0 * o)
    np.testing.assert_array_equal(t, [np.inf, 4.0, np.inf])


SHAPES = [
    Ball(),
    Box(),
    Room(),
    Frustum(),
    Frustum(0.4),
    Frustum(0.0),
    Prism(star(5, 0.5)),
    Prism(GLYPHS["A"]),
    Prism(blob(np.random.default_rng(0))),
    Cutout(GLYPHS["heart"], 0.6),
    Disc(),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: type(shape).__name__)
def test_normals_are_orthogonal_to_the_surface(shape):
    rng = np.random.default_rng(1)
    one = part(shape, GREY, (0.3, -0.2, 0.1), (0.7, 1.1, 0.9), turn("z", 30) @ turn("x", 50))
    eye = np.array([0.3, -0.2, 0.1]) if isinstance(shape, Room) else np.array([2.5, 2.0, 3.0])
    target = (
        one.to_world(rng.uniform(-0.8, 0.8, (3, 400))) if not isinstance(shape, Room) else rng.standard_normal((3, 400))
    )
    direction = target - eye[:, None]
    step = 1e-6

    def hit(d):
        t, _ = cast([one], eye[:, None], d)
        return eye[:, None] + np.where(np.isfinite(t), t, np.nan) * d

    at = hit(direction)
    normal = one.normal(shape.normal(one.to_local(at)))
    for axis in range(3):
        tangent = hit(direction + step * np.eye(3)[:, axis : axis + 1]) - at
        length = np.sqrt((tangent**2).sum(0))
        smooth = np.isfinite(length) & (length < 100 * step) & (length > step / 100)
        tilt = np.abs((tangent * normal).sum(0)[smooth] / length[smooth])
        assert smooth.sum() > 40
        assert np.median(tilt) < 1e-5 and np.quantile(tilt, 0.95) < 1e-3  # a few straddle a crease


def test_bounding_spheres_lose_no_hit():
    rng = np.random.default_rng(2)
    for shape in SHAPES:
        if not shape.closed:
            continue
        one = part(shape, GREY, rng.uniform(-1, 1, 3), rng.uniform(0.2, 1, 3), turn("y", 40))
        d = rng.standard_normal((3, 4000))
        o = np.array([[2.0], [1.0], [0.5]])
        assert np.array_equal(np.isfinite(cast([one], o, d)[0]), np.isfinite(one.intersect(o, d)))


def test_lamp_is_hidden_behind_a_ball_and_seen_beside_it():
    ball = part(Ball(), GREY, (0, 0, 2), 0.5)
    start = np.array([[0.0, 3.0], [0.0, 0.0], [0.0, 0.0]])
    lamp = Light(np.array([0.0, 0.0, 4.0]), 0.05, (1, 1, 1), 4.0)
    picks = np.tile(np.arange(4)[:, None], (1, 2))
    np.testing.assert_array_equal(visibility([ball], start, lamp, picks), [0.0, 1.0])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_stay_in_range_and_fade_when_a_pixel_spans_many_cells(pattern):
    rng = np.random.default_rng(3)
    p = rng.uniform(0, 20, (3, 2000)).astype(np.float32)
    for width in (0.01, 40.0):
        weight = PATTERNS[pattern](At(p, p[0], p[2], np.full(2000, width, np.float32)))
        assert weight.min() >= 0 and weight.max() <= 1.3
    if pattern in ("stripes", "diagonal", "checker", "cloudy"):
        assert weight.std() < 0.02


def test_noise_is_continuous_and_periodic():
    rng = np.random.default_rng(4)
    p = rng.uniform(0, 32, (3, 500)).astype(np.float32)
    np.testing.assert_allclose(texture.lattice_noise(p), texture.lattice_noise(p + 32), atol=1e-4)
    assert np.abs(texture.lattice_noise(p) - texture.lattice_noise(p + np.float32(1e-3))).max() < 0.02
