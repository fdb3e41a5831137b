"""The pinhole camera of a photo, and the depth that goes with its disparity.

Camera axes are those of glTF: x right, y up, the camera looks along -z. Pixel (row i, column j) has its centre at
(j + 0.5, i + 0.5); the optical axis meets the picture's centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FILM_DIAGONAL = 43.2666  # millimetres of a 36 x 24 frame; "35 mm equivalent" compares diagonals (CIPA DCG-001)


@dataclass(frozen=True)
class Camera:
    height: int  # pixels
    width: int
    focal: float  # pixels, the same along both axes
    source: str  # where the focal length is from

    @property
    def fov(self) -> float:
        """Horizontal field of view, degrees."""
        return float(np.degrees(2 * np.arctan(self.width / 2 / self.focal)))

    @property
    def yfov(self) -> float:
        """Vertical field of view, radians."""
        return float(2 * np.arctan(self.height / 2 / self.focal))

    @property
    def text(self) -> str:
        return f"horizontal field of view {self.fov:.2f} degrees, from {self.source}"

    def unproject(self, rows: np.ndarray, columns: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """float32 (..., 3): points of pixels at `depth` along the optical axis."""
        x = (columns + 0.5 - self.width / 2) / self.focal * depth
        y = (self.height / 2 - 0.5 - rows) / self.focal * depth
        return np.stack(np.broadcast_arrays(x, y, -depth), axis=-1).astype(np.float32)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rows, columns) of points (..., 3) in front of the camera."""
        depth = -points[..., 2]
        columns = points[..., 0] / depth * self.focal + self.width / 2 - 0.5
        rows = self.height / 2 - 0.5 - points[..., 1] / depth * self.focal
        return rows, columns


def camera_of(height: int, width: int, focal_35mm: float | None, fov: float) -> Camera:
    """From the 35 mm equivalent focal length in millimetres where the photo states one, else from the horizontal field of
    view in degrees."""
    if focal_35mm:
        return Camera(height, width, focal_35mm * float(np.hypot(height, width)) / FILM_DIAGONAL, "EXIF")
    return Camera(height, width, width / 2 / float(np.tan(np.radians(fov) / 2)), "system.predict.fov")


@dataclass(frozen=True)
class Scene:
    """A photo with its depth. `unit` is disparity over its range, 0 farthest, 1 nearest; 1 / depth = far + unit (near -
    far) in 1 / metre, or, where the scale is unknown, in 1 / (distance of the nearest point)."""

    photo: np.ndarray  # uint8 (H, W, 3)
    unit: np.ndarray  # float32 (H, W)
    far: float
    near: float
    camera: Camera
    metric: bool

    @property
    def depth(self) -> np.ndarray:
        """float32 (H, W), along the optical axis."""
        return 1 / (np.float32(self.far) + self.unit * np.float32(self.near - self.far))

    @property
    def facts(self) -> dict[str, str]:
        """What a reader of the files must know, in words."""
        relative = f"relative: nearest point at 1, farthest at {1 / self.far:g} (far_ratio)"
        return {
            "camera": self.camera.text,
            "depth": "metres" if self.metric else relative,
            "axes": "x right, y up, the camera looks along -z",
        }


def over_range(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """(values scaled to [0, 1] float32, lowest, highest); a constant becomes 0."""
    low, high = float(values.min()), float(values.max())
    return (values - np.float32(low)) / np.float32(max(high - low, np.finfo(np.float32).tiny)), low, high
