"""Does a multiview sample agree with its own cameras? Lifts each view's depth and looks for it in the nearest other view."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines.procedural.camera import Camera
from data_pipelines.procedural.shapes import dot


class Agreement(NamedTuple):
    """The worst over pairs of views."""

    inside: float  # share of lifted points that land in the other view's alpha mask grown by one pixel
    gap: float  # median distance, in pixel footprints, between a point's depth and the depths found there
    normal: float  # median angle in degrees between stored normals and those of the lifted surface

    @property
    def good(self) -> bool:
        return self.inside >= 0.99 and self.gap <= 1.0 and self.normal <= 6.0


def agreement(sample: dict) -> Agreement:
    """Checks a MultiviewSample whose views have depth and normals, each view against the one nearest to it."""
    cameras = [Camera(np.array(view["c2w"]), view["fovy"]) for view in sample["camera.json"]["views"]]
    results = []
    for i, camera in enumerate(cameras):
        others = [k for k in range(len(cameras)) if k != i]
        j = min(others, key=lambda k: np.linalg.norm(cameras[k].position - camera.position))
        depth, point = lifted(sample[f"depth_{i:03d}.npy"], camera)
        normal = 2 * (sample[f"normal_{i:03d}.png"] / 255.0) - 1
        inside, gap = _found(point[:, depth > 0], sample, j, cameras[j])
        results.append((inside, gap, _bent(depth, point, normal)))
    inside, gap, angle = zip(*results, strict=True)
    return Agreement(min(inside), float(np.nanmax(gap)), float(np.nanmax(angle)))


def lifted(depth: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Depth (H, W) along the axis as float64, and the world points (3, H, W) of its pixel centres."""
    height, width = depth.shape
    y, x = (axis.ravel().astype(float) for axis in np.mgrid[:height, :width])
    depth = depth.astype(float)
    point = camera.position[:, None] + depth.ravel() * camera.rays(x, y, width, height)
    return depth, point.reshape(3, height, width)


def _found(point: np.ndarray, sample: dict, j: int, camera: Camera) -> tuple[float, float]:
    """Share of points (3, N) inside view j's mask, and the median of how far their depth lies from the range of depths in
    the 3x3 pixels they land on. Points well behind what view j sees are hidden there and say nothing about the gap."""
    depth, grown = sample[f"depth_{j:03d}.npy"], np.ones((3, 3), np.uint8)
    height, width = depth.shape
    mask = cv2.dilate((sample[f"rgba_{j:03d}.png"][..., 3] > 0).astype(np.uint8), grown)
    nearest, farthest = cv2.erode(np.where(depth > 0, depth, np.float32(1e9)), grown), cv2.dilate(depth, grown)
    x, y, z = camera.project(point, width, height)
    column, row = np.round(x).astype(int), np.round(y).astype(int)
    framed = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (z > 0)
    if not framed.any():
        return 0.0, np.inf
    column, row, z = column[framed], row[framed], z[framed]
    footprint = z / camera.focal(height)
    low, high = nearest[row, column], farthest[row, column]
    gap = np.maximum(np.maximum(low - z, z - high), 0) / footprint
    seen = (z < high + 2 * footprint) & (high > 0)
    return float(mask[row, column].astype(bool).mean()), float(np.median(gap[seen])) if seen.any() else np.inf


def _bent(depth: np.ndarray, point: np.ndarray, normal: np.ndarray) -> float:
    """Median angle in degrees between normals (H, W, 3) and the cross product of neighbouring points."""
    right, down = point[:, 1:-1, 2:] - point[:, 1:-1, :-2], point[:, 2:, 1:-1] - point[:, :-2, 1:-1]
    whole = cv2.erode((depth > 0).astype(np.uint8), np.ones((3, 3), np.uint8))[1:-1, 1:-1] > 0
    surface = np.cross(down, right, axis=0)[:, whole]
    stored = normal[1:-1, 1:-1][whole].T
    cosine = dot(surface, stored) / np.sqrt(dot(surface, surface) * dot(stored, stored))
    return float(np.degrees(np.median(np.arccos(np.clip(cosine, -1, 1))))) if whole.any() else np.nan
