"""A sketch in three dimensions: where the cameras of an object stand and what they see."""

from __future__ import annotations

import cv2
import numpy as np

from vstrain.data.look import canvas

GROUND, EYE_AZIMUTH, EYE_ELEVATION = (226, 226, 220), -62.0, 24.0
OBJECT_RADIUS = 0.5  # every object is normalised to this


def sketch(views: list[dict], size: int) -> np.ndarray:
    """uint8 (size, size, 3). `views`: as in camera.json; a camera is a pyramid whose base is its picture, with its number.

    Seen from a fixed place, in parallel projection, x red, y green, z blue and up."""
    image = canvas.blank(size, size, (255, 255, 255))
    poses = [np.asarray(view["c2w"], float) for view in views]
    reach = max([float(np.linalg.norm(pose[:3, 3])) for pose in poses] + [1.0])
    pyramids = [_pyramid(pose, view, 0.24 * reach) for pose, view in zip(poses, views, strict=True)]
    project = _projection(reach * 1.22, size)
    _ground(image, project, reach)
    far_first = sorted(range(len(views)), key=lambda n: project(poses[n][:3, 3])[2])
    behind = [n for n in far_first if project(poses[n][:3, 3])[2] < 0]
    for n in behind:
        _draw(image, project, pyramids[n], n, len(views))
    _ball(image, project, size, reach)
    for n in far_first[len(behind) :]:
        _draw(image, project, pyramids[n], n, len(views))
    return image


def _projection(reach: float, size: int):
    """point (3,) -> (x, y, nearness), the origin in the middle and `reach` at the edge."""
    azimuth, elevation = np.radians(EYE_AZIMUTH), np.radians(EYE_ELEVATION)
    towards = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    up = np.cross(towards, right)
    middle, scale = (size - 1) / 2, size / 2 / reach

    def project(point) -> np.ndarray:
        point = np.asarray(point, float)
        return np.array([middle + scale * point @ right, middle - scale * point @ up, point @ towards])

    return project


def _pyramid(pose: np.ndarray, view: dict, length: float) -> np.ndarray:
    """(5, 3): the camera's place and the corners of its picture, at the top left first. OpenGL: it looks along -z."""
    half = np.tan(np.radians(float(view["fovy"])) / 2) * length
    wide = half * float(view["width"]) / float(view["height"])
    corners = np.array([[-wide, half, -length], [wide, half, -length], [wide, -half, -length], [-wide, -half, -length]])
    return np.vstack([pose[:3, 3], corners @ pose[:3, :3].T + pose[:3, 3]])


def _draw(image: np.ndarray, project, pyramid: np.ndarray, number: int, count: int) -> None:
    colour = canvas.colour_of(number, count)
    apex, *corners = [project(point)[:2] for point in pyramid]
    canvas.polygon(image, corners, colour, opacity=0.22)
    canvas.line(image, corners, colour, closed=True)
    for corner in corners:
        canvas.line(image, [apex, corner], colour)
    canvas.dot(image, *apex, 2.2, colour)
    outwards = apex - (len(image) - 1) / 2
    place = apex + outwards / max(float(np.hypot(*outwards)), 1.0) * 9
    canvas.write_centred(image, place[0], place[1] - 7, str(number), 10, colour)


def _ground(image: np.ndarray, project, reach: float) -> None:
    """Rings and the axes on the plane z = 0."""
    turn = np.linspace(0, 2 * np.pi, 73)
    for radius in (reach / 3, 2 * reach / 3, reach):
        ring = [project([radius * np.cos(t), radius * np.sin(t), 0.0])[:2] for t in turn]
        canvas.line(image, ring, GROUND)
    axes = (([1, 0, 0], (214, 90, 80)), ([0, 1, 0], (88, 160, 88)), ([0, 0, 1], (80, 120, 205)))
    for axis, colour in axes:
        canvas.line(image, [project([0, 0, 0])[:2], project(np.array(axis) * reach * 0.62)[:2]], colour)


def _ball(image: np.ndarray, project, size: int, reach: float) -> None:
    """The object's bounding sphere, shaded; in parallel projection it is a disc."""
    x, y, _ = project([0, 0, 0])
    radius = size / 2 / (reach * 1.22) * OBJECT_RADIUS
    for step in np.linspace(1, 0.15, 8):
        shade = round(175 + 65 * (1 - step))
        canvas.dot(image, x - 0.3 * radius * (1 - step), y - 0.3 * radius * (1 - step), radius * step, (shade,) * 3)
    cv2.circle(image, (round(x), round(y)), round(radius), (150, 150, 150), 1, cv2.LINE_AA)
