"""Point clouds and textured meshes of a photo."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vstrain.systems.depth.scene.camera import Scene


class Mesh(NamedTuple):
    points: np.ndarray  # float32 (N, 3), camera axes
    texture: np.ndarray  # float32 (N, 2), from the photo's top left corner, [0, 1]
    faces: np.ndarray  # uint32 (M, 3), counter-clockwise seen from the camera


def cloud(scene: Scene, most: int) -> tuple[np.ndarray, np.ndarray]:
    """(points float32 (N, 3), colours uint8 (N, 3)) of at most `most` pixels, spread evenly."""
    rows, columns = lattice(*scene.unit.shape, most)
    at = np.ix_(rows, columns)
    points = scene.camera.unproject(rows[:, None], columns[None], scene.depth[at])
    return points.reshape(-1, 3), scene.photo[at].reshape(-1, 3)


def mesh(scene: Scene, most: int, edge: float) -> Mesh:
    """Triangles between neighbouring pixels of an even lattice of at most `most` points. A triangle whose nearest and
    farthest corner differ by more than `edge` of the farthest spans two surfaces and is left out, as are points that no
    triangle uses."""
    rows, columns = lattice(*scene.unit.shape, most)
    depth = scene.depth[np.ix_(rows, columns)]
    number = np.arange(depth.size, dtype=np.uint32).reshape(depth.shape)
    a, b, c, d = number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]
    faces = np.concatenate([np.stack(corners, -1).reshape(-1, 3) for corners in ((a, c, b), (b, c, d))])
    corners = depth.reshape(-1)[faces]
    faces = faces[corners.max(1) - corners.min(1) <= edge * corners.max(1)]
    used, faces = np.unique(faces, return_inverse=True)
    points = scene.camera.unproject(rows[:, None], columns[None], depth).reshape(-1, 3)[used]
    i, j = np.divmod(used, len(columns))
    texture = np.stack([(columns[j] + 0.5) / scene.camera.width, (rows[i] + 0.5) / scene.camera.height], -1)
    return Mesh(points, texture.astype(np.float32), faces.reshape(-1, 3).astype(np.uint32))


def lattice(height: int, width: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) of an even lattice with the corners of the picture and at most `most` points."""
    share = min(1, (most / (height * width)) ** 0.5)
    rows = min(height, max(2, int(height * share)))
    columns = min(width, max(2, most // rows if share < 1 else width))
    return (np.rint(np.linspace(0, n - 1, k)).astype(int) for n, k in ((height, rows), (width, columns)))
