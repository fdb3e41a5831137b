"""Conventions of spec section 2 and the pose code of 4.2, with the traps that the spec names."""

import numpy as np
import pytest

from vstrain.systems.multiview import cameras


def code_of(azimuth, elevation=None, radius=None, targets=1, noise=None, distort=None):
    count = len(azimuth)
    zero = np.zeros(count)
    values = [zero if x is None else np.array(x, dtype=float) for x in (elevation, radius, noise, distort)]
    return cameras.pose_code(values[0], np.array(azimuth, dtype=float), values[1], targets, values[2], values[3])


@pytest.mark.parametrize(
    ("elevation", "azimuth", "position"),
    [(0, 0, (2, 0, 0)), (0, 90, (0, 2, 0)), (0, 180, (-2, 0, 0)), (90, 37, (0, 0, 2)), (-30, 0, (3**0.5, 0, -1))],
)
def test_position(elevation, azimuth, position):
    np.testing.assert_allclose(cameras.orbit(elevation, azimuth, 2.0)[:3, 3], position, atol=1e-12)


def test_camera_looks_at_the_origin_with_z_up():
    rng = np.random.default_rng(0)
    for elevation, azimuth in zip(rng.uniform(-89, 89, 20), rng.uniform(-180, 180, 20), strict=True):
        c2w = cameras.orbit(elevation, azimuth, 1.7)
        right, up, back, position = c2w[:3].T
        np.testing.assert_allclose(c2w[:3, :3].T @ c2w[:3, :3], np.eye(3), atol=1e-12)
        assert np.linalg.det(c2w[:3, :3]) == pytest.approx(1)  # not mirrored
        np.testing.assert_allclose(position - 1.7 * back, 0, atol=1e-12)  # the origin lies on -z
        assert up[2] > 0 and abs(right[2]) < 1e-12
        assert cameras.spherical(c2w) == pytest.approx((elevation, azimuth, 1.7))


def test_object_on_the_right_is_right_in_the_picture():
    """A camera on +x sees +y on its right and +z above: the pixel whose ray meets the point has larger i, smaller j."""
    c2w, size, fovy = cameras.orbit(0, 0, 2.0), 8, 60.0
    world = cameras.rays(size, size, fovy) @ c2w[:3, :3].T
    for point, expected in (((0, 0.5, 0.2), (5, 3)), ((0, -0.5, -0.6), (2, 6))):
        direction = np.array(point) - c2w[:3, 3]
        j, i = np.unravel_index(np.argmax(world @ (direction / np.linalg.norm(direction))), (size, size))
        focal = cameras.focal(size, fovy)
        assert (i, j) == (int(4 + focal * point[1] / 2), int(4 - focal * point[2] / 2)) == expected


def test_rays_are_unit_and_symmetric_about_the_principal_point():
    rays = cameras.rays(4, 6, 50.0)
    np.testing.assert_allclose(np.linalg.norm(rays, axis=-1), 1, atol=1e-12)
    np.testing.assert_allclose(rays[::-1, ::-1] * [-1, -1, 1], rays, atol=1e-12)
    edge = np.degrees(np.arctan(2.0 / cameras.focal(4, 50.0)))  # half of the picture's height
    assert 2 * edge == pytest.approx(50.0)


def test_opencv_changes_the_camera_axes_and_not_the_world():
    c2w = cameras.orbit(20, 50, 1.5)
    cv = cameras.to_opencv(c2w)
    np.testing.assert_allclose(cv[:3, 3], c2w[:3, 3])
    np.testing.assert_allclose(cv[:3, 2], -c2w[:3, 2])  # OpenCV looks along +z
    np.testing.assert_allclose(cv[:3, 1], -c2w[:3, 1])  # and its y points down
    np.testing.assert_allclose(cameras.to_opencv(cv), c2w)


def test_z_up_to_y_up_is_a_rotation():
    turned = cameras.z_up_to_y_up(np.eye(3))  # rows: where x, y and z go
    np.testing.assert_array_equal(turned, [[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    assert np.linalg.det(turned) == pytest.approx(1)


def test_mvdream_azimuth_begins_on_minus_y():
    first, quarter = (cameras.mvdream_camera(0, a).reshape(4, 4)[:3, 3] for a in (0, 90))
    np.testing.assert_allclose(first, [0, -1, 0], atol=1e-12)
    np.testing.assert_allclose(quarter, [1, 0, 0], atol=1e-12)


def test_code_columns():
    code = code_of(
        [75, 30, -60], elevation=[10, 20, -10], radius=[1.5, 1.5, 1.5], noise=[0, 0, 250], distort=[0, 0, 0.25]
    )
    np.testing.assert_array_equal(code[:, :4], [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 250, 0.25]])
    expected = np.radians([[10, 45], [20, 0], [-10, -90]])
    np.testing.assert_allclose(code[:, [4, 5]], np.sin(expected), atol=1e-6)
    np.testing.assert_allclose(code[:, [7, 8]], np.cos(expected), atol=1e-6)
    np.testing.assert_array_equal(code[:, [6, 9]], [[0, 1]] * 3)


def test_azimuth_is_relative_and_elevation_absolute():
    base = code_of([75, 30, -60], elevation=[10, 20, -10])
    np.testing.assert_allclose(code_of([175, 130, 40], elevation=[10, 20, -10]), base, atol=1e-6)
    assert not np.allclose(code_of([75, 30, -60], elevation=[20, 30, 0]), base)


def test_reference_is_condition_view_0_also_with_many_targets():
    code = code_of([10, 20, 50, 140], targets=2)
    np.testing.assert_allclose(np.degrees(np.arctan2(code[:, 5], code[:, 8])), [-40, -30, 0, 90], atol=1e-4)


@pytest.mark.parametrize(("difference", "written"), [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (44.4, 44)])
def test_relative_azimuth_rounds_half_to_even(difference, written):
    code = code_of([difference, 0.0])
    np.testing.assert_allclose(code[0, [5, 8]], [np.sin(np.radians(written)), np.cos(np.radians(written))], atol=1e-6)


@pytest.mark.parametrize(
    ("degrees", "wrapped"), [(180, -180), (-180, -180), (179, 179), (181, -179), (540, -180), (-541, 179)]
)
def test_wrap(degrees, wrapped):
    assert cameras.wrap(float(degrees)) == wrapped


def test_code_does_not_jump_at_the_seam():
    """179.6 rounds to 180 and is the same direction as -180; views on both sides of the seam are neighbours."""
    np.testing.assert_array_equal(code_of([179.6, 0])[0], code_of([-180.4, 0])[0])
    np.testing.assert_allclose(code_of([179, 0])[0], code_of([-179, 0])[0] * [1, 1, 1, 1, 1, -1, 1, 1, 1, 1], atol=1e-6)
    np.testing.assert_array_equal(code_of([5, 355])[0], code_of([10, 0])[0])


@pytest.mark.parametrize("where", [0, 1])
def test_target_and_view_0_never_carry_labels(where):
    noise = np.zeros(3)
    noise[where] = 100
    with pytest.raises(ValueError, match="condition view 0"):
        code_of([0, 0, 90], noise=noise)
    with pytest.raises(ValueError, match="condition view 0"):
        code_of([0, 0, 90], distort=noise)
