"""Pinhole cameras: world z up, camera axes x right, y up, looking along -z (OpenGL); degrees and metres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Camera:
    """`c2w` (4, 4) camera to world; `fovy` vertical field of view in degrees. Pixel (x, y) has its centre at (x, y)."""

    c2w: np.ndarray
    fovy: float

    @property
    def position(self) -> np.ndarray:
        return self.c2w[:3, 3]

    def focal(self, height: int) -> float:
        """Pixels."""
        return height / 2 / np.tan(np.radians(self.fovy) / 2)

    def rays(self, x: np.ndarray, y: np.ndarray, width: int, height: int) -> np.ndarray:
        """World directions (3, N) through pixels x, y (N,), scaled so that lengths along them are depths along the axis."""
        f = self.focal(height)
        right, up = (x + 0.5 - width / 2) / f, -(y + 0.5 - height / 2) / f
        axes = self.c2w[:3, :3]
        return axes[:, :1] * right + axes[:, 1:2] * up - axes[:, 2:]

    def project(self, points: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels x, y (N,) and depth along the axis (N,) of world points (3, N); meaningless where depth <= 0."""
        offset = points - self.position[:, None]
        right, up, back = (sum(axis[i] * offset[i] for i in range(3)) for axis in self.c2w[:3, :3].T)
        f = self.focal(height)
        depth = np.where(np.abs(back) < 1e-12, -1e-12, -back)
        return f * right / depth + width / 2 - 0.5, height / 2 - 0.5 - f * up / depth, -back


def look_at(position, target, fovy: float, roll: float = 0.0) -> Camera:
    """A camera at `position` that sees `target` in its middle, world z up, then rolled by `roll` degrees."""
    position = np.asarray(position, float)
    back = position - np.asarray(target, float)
    back /= np.linalg.norm(back)
    right = np.cross([0.0, 0.0, 1.0], back)
    if np.linalg.norm(right) < 1e-9:
        right = np.array([1.0, 0.0, 0.0])
    right /= np.linalg.norm(right)
    up = np.cross(back, right)
    c, s = np.cos(np.radians(roll)), np.sin(np.radians(roll))
    c2w = np.eye(4)
    c2w[:3] = np.stack([c * right + s * up, c * up - s * right, back, position], axis=1)
    return Camera(c2w, float(fovy))


def orbit(elevation: float, azimuth: float, radius: float, fovy: float) -> Camera:
    """A camera that looks at the origin: azimuth 0 is on +x, 90 on +y; elevation grows towards +z."""
    e, a = np.radians(elevation), np.radians(azimuth)
    return look_at(radius * np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)]), np.zeros(3), fovy)


def turn(axis: str, degrees: float) -> np.ndarray:
    """Rotation (3, 3) about a world axis, right handed."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    rotation = np.eye(3)
    rotation[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
    return rotation
