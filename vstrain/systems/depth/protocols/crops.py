"""The part of an image in which a protocol counts pixels."""

from __future__ import annotations

import numpy as np

from vstrain.config.problems import InputError

# top, bottom, left, right as shares of the sides; the pixel index is rounded down
KITTI = {
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    "eigen": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
}
NYU, NYU_SIZE = (45, 471, 41, 601), (480, 640)
WORDS = {
    "none": "none",
    "garg": "garg (rows .4081-.9919, columns .0359-.9641)",
    "eigen": "eigen (rows .3324-.9135, columns .0359-.9641)",
    "nyu": "nyu (rows 45-471, columns 41-601 of 480 x 640)",
}


def inside(crop: str, height: int, width: int) -> np.ndarray:
    """bool (H, W)."""
    if crop == "none":
        return np.ones((height, width), bool)
    if crop == "nyu":
        if (height, width) != NYU_SIZE:
            raise InputError(
                f"crop=nyu is for depth of 480 x 640 pixels, this one has {height} x {width}; use crop=none"
            )
        top, bottom, left, right = NYU
    else:
        shares = KITTI[crop]
        top, bottom = (int(share * height) for share in shares[:2])
        left, right = (int(share * width) for share in shares[2:])
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask
