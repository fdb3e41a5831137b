"""Cameras and the pose code (spec sections 2 and 4.2). NumPy, degrees, float64 unless said.

World: right-handed, z up; azimuth 0 = +x, 90 = +y; elevation up from the xy plane. Camera: OpenGL axes, x
right, y up, it looks along -z; the columns of c2w are right, up, back, position. Everything else is
converted at the border.
"""

from __future__ import annotations

import numpy as np

CODE_WIDTH = 10
NOISE_LABEL, DISTORT_LABEL = 2, 3  # columns of the code
GL_TO_CV = np.diag([1.0, -1.0, -1.0, 1.0])


def orbit(elevation: float, azimuth: float, radius: float) -> np.ndarray:
    """c2w (4, 4) of a camera on a sphere about the origin that looks at its centre, z up."""
    e, a = np.radians([elevation, azimuth])
    back = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    right = np.array([-np.sin(a), np.cos(a), 0.0])
    c2w = np.eye(4)
    c2w[:3] = np.stack([right, np.cross(back, right), back, radius * back], axis=1)
    return c2w


def spherical(c2w: np.ndarray) -> tuple[float, float, float]:
    """Elevation, azimuth in [-180, 180) and radius of the position of c2w (4, 4)."""
    x, y, z = np.asarray(c2w, dtype=np.float64)[:3, 3]
    radius = float(np.sqrt(x * x + y * y + z * z))
    return float(np.degrees(np.arcsin(z / radius))), float(wrap(np.degrees(np.arctan2(y, x)))), radius


def wrap(degrees):
    """Degrees to [-180, 180)."""
    return (degrees + 180.0) % 360.0 - 180.0


def focal(height: int, fovy: float) -> float:
    """Focal length in pixels from the vertical field of view."""
    return 0.5 * height / np.tan(0.5 * np.radians(fovy))


def rays(height: int, width: int, fovy: float) -> np.ndarray:
    """Unit rays (H, W, 3) in camera axes through pixel centres at i + 0.5, principal point (W/2, H/2)."""
    f = focal(height, fovy)
    i, j = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    directions = np.stack([(i - width / 2) / f, -(j - height / 2) / f, -np.ones_like(i)], axis=-1)
    return directions / np.linalg.norm(directions, axis=-1, keepdims=True)


def to_opencv(c2w: np.ndarray) -> np.ndarray:
    """OpenGL to OpenCV camera axes (its own inverse): the camera's axes change, the world does not."""
    return c2w @ GL_TO_CV


def z_up_to_y_up(points: np.ndarray) -> np.ndarray:
    """(..., 3): this world to glTF's, where y is up."""
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], axis=-1)


def mvdream_camera(elevation: float, azimuth: float) -> np.ndarray:
    """The 16 numbers that MVDream-type weights read: row-major c2w, position scaled to length 1. `azimuth`
    in their count, which begins on -y and grows towards +x: their a is our a - 90."""
    return orbit(elevation, azimuth - 90.0, 1.0).reshape(16)


def pose_code(
    elevation: np.ndarray,
    azimuth: np.ndarray,
    radius: np.ndarray,
    targets: int,
    noise: np.ndarray,
    distort: np.ndarray,
) -> np.ndarray:
    """The 10 numbers of each frame (spec section 4.2): (F, 10) float32 from (F,) arrays, target frames first.

    0, 1 one-hot target / condition; 2 noise label, 3 distortion label; 4-6 the sine and 7-9 the cosine of
    elevation, azimuth and radius. Azimuth (rounded to whole degrees, half to even) and radius are relative
    to condition view 0, which is frame `targets`; elevation is absolute. noise, distort (F,): labels, in
    the units that the network is to read.
    """
    if noise[: targets + 1].any() or distort[: targets + 1].any():
        raise ValueError("pose_code: targets and condition view 0 carry no noise and no distortion label")
    relative = wrap(np.round(azimuth - azimuth[targets]))
    angles = np.stack([np.radians(elevation), np.radians(relative), radius - radius[targets]], axis=1)
    is_target = np.arange(len(azimuth)) < targets
    columns = [is_target, ~is_target, noise, distort]
    return np.concatenate([np.stack(columns, axis=1), np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
