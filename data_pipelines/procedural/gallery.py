"""Contact sheets of the four projections of the world: `python -m data_pipelines.procedural.gallery OUT_DIR`."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.procedural import depth, drag, multiview, story
from data_pipelines.procedural.config import DepthWorld, DragWorld, MultiviewWorld, StoryWorld

PAPER, INK, GAP, LINE = 250, (60, 60, 60), 6, 16


def grid(rows: list[list[np.ndarray]], labels: list[str]) -> np.ndarray:
    """Pictures (H, W, 3) of one size in rows, a label line above each row."""
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    band = height + GAP + LINE
    sheet = np.full((len(rows) * band + GAP, columns * (width + GAP) + GAP, 3), PAPER, np.uint8)
    for r, (row, label) in enumerate(zip(rows, labels, strict=True)):
        top = r * band + LINE
        cv2.putText(sheet, label, (GAP, top - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.38, INK, 1, cv2.LINE_AA)
        for c, picture in enumerate(row):
            left = GAP + c * (width + GAP)
            sheet[top : top + height, left : left + width] = picture
    return sheet


def depth_sheet(size: int = 160, columns: int = 6) -> np.ndarray:
    rows, labels = [], []
    for split, look in (("train", "synthetic"), ("train_real", "real")):
        samples = [depth.make(DepthWorld(size=size), split, index) for index in range(columns)]
        rows += [[s["jpg"] for s in samples], [coloured(s["depth.pco"]) for s in samples]]
        labels += [f"{look} look", "exact depth (near is bright, sky is black)"]
    return grid(rows, labels)


def coloured(metres: np.ndarray) -> np.ndarray:
    disparity = np.where(metres > 0, 1 / np.maximum(metres, 1e-3), 0)
    scaled = np.clip(disparity / np.quantile(disparity, 0.99), 0, 1) ** 0.8
    return cv2.applyColorMap((255 * scaled).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]


def story_sheet(size: int = 128, stories: int = 4) -> np.ndarray:
    rows, labels = [], []
    for index in range(stories):
        config = StoryWorld(size=size, shots=3, frames=3)
        sample = story.make(config, "val", index)
        rows.append(list(sample["mp4"]))
        facts = sample["json"]
        who = "; ".join(f"{name}: {what}" for name, what in facts["characters"].items())
        does = " | ".join(f"{shot['activity']} ({shot['background']})" for shot in facts["shots"])
        labels.append(textwrap.shorten(f"{who}  -  {does}", 190))
    return grid(rows, labels)


def multiview_sheet(size: int = 128, objects: int = 4) -> np.ndarray:
    rows, labels = [], []
    for index in range(objects):
        sample = multiview.make(MultiviewWorld(size=size, targets=2), "val", index)
        pictures = [on_paper(sample[f"rgba_{v:03d}.png"]) for v in (0, 1, 4, 5, 10, 11)]
        near, far = (edge(sample["depth_004.npy"][sample["depth_004.npy"] > 0]) for edge in (np.min, np.max))
        shade = np.where(
            sample["depth_004.npy"] > 0, 230 - 180 * (sample["depth_004.npy"] - near) / (far - near), PAPER
        )
        rows.append([*pictures, sample["normal_004.png"], np.dstack([shade.astype(np.uint8)] * 3)])
        labels.append(
            f"{sample['txt']}: two views each of instant3d4, zero123pp6 and random; normals and depth of the third"
        )
    return grid(rows, labels)


def on_paper(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:] / 255
    return np.round(rgba[..., :3] * alpha + PAPER * (1 - alpha)).astype(np.uint8)


def drag_sheet(size: int = 160, samples: int = 4) -> np.ndarray:
    rows, labels = [], []
    for index in range(samples):
        sample = drag.make(DragWorld(size=size), "val", index)
        points = sample["points.json"]
        arrows = sample["src.webp"].copy()
        for handle, target in zip(points["handles"], points["targets"], strict=True):
            start, end = (tuple(int(round(v)) for v in point) for point in (handle, target))
            cv2.arrowedLine(arrows, start, end, (20, 20, 20), 3, cv2.LINE_AA, tipLength=0.25)
            cv2.arrowedLine(arrows, start, end, (255, 255, 255), 1, cv2.LINE_AA, tipLength=0.25)
        mask = np.dstack([sample["mask.png"]] * 3)
        rows.append([sample["src.webp"], arrows, mask, sample["tgt.webp"]])
        labels.append(f"source, drags, mask, target: {', '.join(sample['meta.json']['motions'])}")
    return np.hstack(
        [grid(rows[: samples // 2], labels[: samples // 2]), grid(rows[samples // 2 :], labels[samples // 2 :])]
    )


SHEETS = {"depth": depth_sheet, "story": story_sheet, "multiview": multiview_sheet, "drag": drag_sheet}


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for kind, sheet in SHEETS.items():
        path = out / f"{kind}.png"
        cv2.imwrite(str(path), sheet()[..., ::-1])
        print(path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m data_pipelines.procedural.gallery OUT_DIR")
    main(Path(sys.argv[1]))
