"""A teacher's disparity as the label of pictures nobody has labelled (depth spec, 2, 3 and 7)."""

from __future__ import annotations

import numpy as np
import torch

from vstrain.config.problems import InputError
from vstrain.data import codecs
from vstrain.data.depth import PSEUDO
from vstrain.data.kinds import SampleError
from vstrain.system import System
from vstrain.systems.depth.config import PATCH
from vstrain.systems.depth.prepare import bounded_size, resize_image

KEPT = ("look", "source", "focal", "fovy")  # what a label's json takes over from the picture's


class Labeller:
    """Labels batches of pictures of one size. side: pixels that the short side has when the teacher sees a picture.

    flip: the mean over the picture and its mirror image; how far they differ goes into json's flip_error, mean |a - b| over
    the mean deviation of the label from its median. precision: "32", or "bf16" for the network under autocast."""

    def __init__(self, system: System, side: int | None, flip: bool, precision: str):
        if system.config.output != "relative":
            raise InputError(
                "vstrain label: the teacher predicts metres; a student learns from a relative model's disparity"
            )
        self.system, self.flip, self.precision = system, flip, precision
        self._side = side or system.config.image_size
        if self._side % PATCH:
            raise InputError(f"size={side}: expected a multiple of {PATCH}, such as 518, or null for the training size")

    @property
    def facts(self) -> dict:
        """What, beside weights and pictures, decides a label."""
        c = self.system.config
        keys = {"version": c.version, "size": c.size, "pos_embed": c.pos_embed, "antialias": c.antialias}
        return keys | {"input_side": self._side, "flip": self.flip, "precision": self.precision}

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the label of a picture: what the network sees."""
        return bounded_size(height, width, self._side)

    def input(self, picture: np.ndarray) -> np.ndarray:
        """uint8 (h, w, 3) for a decoded picture of any kind."""
        if picture.dtype == np.uint16:
            picture = (picture // 257).astype(np.uint8)
        picture = np.stack([picture] * 3, axis=2) if picture.ndim == 2 else picture[:, :, :3]
        return resize_image(picture, *self.size(*picture.shape[:2]), self.system.config.antialias)

    @torch.inference_mode()
    def label(self, pictures: np.ndarray) -> list[tuple[np.ndarray, float | None]]:
        """(disparity float16 (h, w), flip error or None) for each of uint8 (B, h, w, 3)."""
        image = torch.from_numpy(pictures).to(self.system.device)
        disparity, error = self._disparity(image), [None] * len(image)
        if self.flip:
            mirrored = self._disparity(image.flip(2)).flip(2)
            disparity, apart = (disparity + mirrored) / 2, (disparity - mirrored).abs().mean((1, 2))
            flat = disparity.flatten(1)
            spread = (flat - flat.median(1, keepdim=True).values).abs().mean(1)
            error = (apart / spread.clamp_min(1e-6)).tolist()
        return list(zip(disparity.half().cpu().numpy(), error, strict=True))

    def sample(
        self, key: str, picture: dict, facts: dict, disparity: np.ndarray, error: float | None, teacher: dict
    ) -> dict:
        """The finished sample: the picture's bytes as they are, the label, and where it comes from. Raises SampleError."""
        if not np.isfinite(disparity).all():
            raise SampleError(f"sample {key}: the teacher's disparity is not finite in float16")
        flat = disparity.astype(np.float32)
        low, middle, high = (float(f"{x:.5g}") for x in (flat.min(), np.median(flat), flat.max()))
        json = {name: facts[name] for name in KEPT if name in facts} | {
            "unit": "disparity",
            "label": PSEUDO,
            **teacher,
            "input_size": list(disparity.shape),
            "range": [low, middle, high],
        }
        json |= {} if error is None else {"flip_error": round(error, 5)}
        return {"__key__": key, **picture, "depth.pco": codecs.encode("depth.pco", disparity), "json": json}

    def _disparity(self, image: torch.Tensor) -> torch.Tensor:
        bf16 = self.precision == "bf16"
        with torch.autocast(image.device.type, torch.bfloat16, enabled=bf16):
            return self.system(image).float()


def confidence(json: dict) -> str | None:
    """The class that a label is counted in."""
    error = json.get("flip_error")
    if error is None:
        return None
    return next(
        (f"flip_error below {bound}" for bound in (0.02, 0.05, 0.1, 0.2, 0.5) if error < bound),
        "flip_error 0.5 or more",
    )
