"""The depth of a sample of kind `depth`, in whichever member it is stored."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vstrain.data.codecs.arrays import DEPTH_NAMES
from vstrain.data.kinds import SampleError

PSEUDO = "pseudo"  # json's label: a teacher's disparity, of the size at which the teacher saw the picture, 0 included
MEMBERS = ("depth.pco", "depth.png", "depth.exr", "depth.npy", "depth.npz")  # the first that is there is taken


def depth_member(sample: Mapping) -> str:
    """The name of the member that holds the depth. Raises SampleError when there is none."""
    name = next((name for name in MEMBERS if name in sample), None)
    if name is None:
        raise SampleError(f"sample {sample['__key__']}: has no depth; expected one of {', '.join(MEMBERS)}")
    return name


def depth_of(sample: Mapping) -> np.ndarray:
    """float32 (H, W): metres or disparity, as json says. Stored floats are these numbers; stored integers are multiplied
    by json's depth_scale, in float64. Raises SampleError for integers without a scale and for what is not one map."""
    name = depth_member(sample)
    where, stored = f"sample {sample['__key__']}: {name}", sample[name]
    if isinstance(stored, dict):
        names = [key for key in stored if key.lower() in DEPTH_NAMES] or list(stored)
        if len(names) != 1:
            raise SampleError(f"{where} holds the arrays {', '.join(stored)}; expected one, or one named depth")
        stored = stored[names[0]]
    if stored.ndim == 3 and 1 in (stored.shape[0], stored.shape[2]):
        stored = stored.reshape(stored.shape[1:] if stored.shape[0] == 1 else stored.shape[:2])
    if stored.ndim != 2 or stored.dtype.kind not in "fui":
        raise SampleError(f"{where} is {stored.dtype} {stored.shape}; expected one map of numbers (H, W)")
    if stored.dtype.kind == "f":
        return stored.astype(np.float32, copy=False)
    scale = sample["json"].get("depth_scale")
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not scale > 0:
        raise SampleError(
            f"{where} holds integers, and json's depth_scale is {scale}; expected a number > 0 that makes metres of them, "
            "such as 0.001 for millimetres"
        )
    return (stored * float(scale)).astype(np.float32)
