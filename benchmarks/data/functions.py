"""The work done for one sample: bytes -> a 518 x 518 crop, written as each kind of code usually writes it.

A sample is {"key": int, "jpg": bytes, "png" or "depth.pco": bytes}; every function crops the same square (the full short
side, its place along the long side drawn from the key) and returns {"image": ..., "depth": ...}. With `out` the result is
put into these arrays, the slots of a batch.

images      JPEG only, cropped, then resized: uint8 (518, 518, 3)
tuned_png   the same, and depth from a 16-bit PNG: uint16 (518, 518)
tuned_pco   the same, and depth from pcodec
usual       what most depth models do: cv2 decode, float, cubic, normalise: float32 (3, 518, 518) and (518, 518), PNG
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import cv2
import numpy as np

SIZE, BATCH = 518, 32
MEAN, STD = (np.array(v, np.float32) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def crop(array: np.ndarray, key: int) -> np.ndarray:
    """The square of the short side (a view)."""
    height, width = array.shape[:2]
    side = min(height, width)
    top, left = (height - side) * (key % 8) // 8, (width - side) * (key % 8) // 8
    return array[top : top + side, left : left + side]


def put_image(image: np.ndarray, key: int, slot: np.ndarray | None = None) -> np.ndarray:
    return cv2.resize(crop(image, key), (SIZE, SIZE), dst=slot, interpolation=cv2.INTER_LINEAR)


def put_depth(depth: np.ndarray, key: int, slot: np.ndarray | None = None) -> np.ndarray:
    return cv2.resize(crop(depth, key), (SIZE, SIZE), dst=slot, interpolation=cv2.INTER_NEAREST)


def images(sample: dict, out: dict | None = None) -> dict:
    from simplejpeg import decode_jpeg

    slot = out["image"] if out else None
    return {"image": put_image(decode_jpeg(sample["jpg"], colorspace="RGB"), sample["key"], slot)}


def tuned_png(sample: dict, out: dict | None = None) -> dict:
    depth = cv2.imdecode(np.frombuffer(sample["png"], np.uint8), cv2.IMREAD_UNCHANGED)
    slot = out["depth"] if out else None
    return {**images(sample, out), "depth": put_depth(depth, sample["key"], slot)}


def tuned_pco(sample: dict, out: dict | None = None) -> dict:
    from vstrain.data import codecs

    slot = out["depth"] if out else None
    depth = codecs.decode("depth.pco", sample["depth.pco"])
    return {**images(sample, out), "depth": put_depth(depth, sample["key"], slot)}


def usual(sample: dict, out: dict | None = None) -> dict:
    image = cv2.imdecode(np.frombuffer(sample["jpg"], np.uint8), cv2.IMREAD_COLOR)
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.float32) / 255.0
    depth = cv2.imdecode(np.frombuffer(sample["png"], np.uint8), cv2.IMREAD_UNCHANGED).astype(np.float32)
    scale = SIZE / min(depth.shape)
    size = tuple(max(SIZE, round(scale * side)) for side in depth.shape[::-1])
    image = (cv2.resize(image, size, interpolation=cv2.INTER_CUBIC) - MEAN) / STD
    depth = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST)
    result = {
        "image": np.ascontiguousarray(crop(image, sample["key"]).transpose(2, 0, 1)),
        "depth": np.ascontiguousarray(crop(depth, sample["key"])),
    }
    for name, slot in (out or {}).items():
        slot[...] = result[name]
    return result


FUNCTIONS = {function.__name__: function for function in (images, tuned_png, tuned_pco, usual)}


def slots(function: str, count: int = BATCH) -> dict[str, np.ndarray]:
    """Arrays that hold a batch of this function's results."""
    if function == "usual":
        return {
            "image": np.zeros((count, 3, SIZE, SIZE), np.float32),
            "depth": np.zeros((count, SIZE, SIZE), np.float32),
        }
    out = {"image": np.zeros((count, SIZE, SIZE, 3), np.uint8)}
    return out if function == "images" else {**out, "depth": np.zeros((count, SIZE, SIZE), np.uint16)}


def fill(function: str, samples: list[dict], out: dict[str, np.ndarray]) -> None:
    for row, sample in enumerate(samples):
        FUNCTIONS[function](sample, {name: array[row] for name, array in out.items()})


def cost(corpus: Path, rounds: int, count: int = 96) -> dict[str, list[float]]:
    """CPU milliseconds a sample of every function and of the JPEG stage alone ("jpeg"), round by round, from memory."""
    from benchmarks.data.corpus import read
    from vstrain.data import codecs

    samples = []
    for sample in read(corpus, "depth"):
        depth = codecs.decode("depth.png", sample["png"])
        samples.append({**sample, "depth.pco": codecs.encode("depth.pco", depth)})
        if len(samples) == count:
            break
    batches = [samples[at : at + BATCH] for at in range(0, len(samples), BATCH)]
    buffers = {name: slots(name) for name in FUNCTIONS}
    costs: dict[str, list[float]] = {name: [] for name in ("jpeg", *FUNCTIONS)}
    for number in range(rounds + 1):
        for name in costs:
            start = time.process_time()
            for batch in batches:
                if name == "jpeg":
                    for sample in batch:
                        codecs.decode("jpg", sample["jpg"])
                else:
                    fill(name, batch, buffers[name])
            if number:  # the first round warms caches
                costs[name].append(1e3 * (time.process_time() - start) / len(samples))
    return costs


if __name__ == "__main__":  # python -m benchmarks.data.functions CORPUS ROUNDS
    cv2.setNumThreads(1)
    found = cost(Path(sys.argv[1]), int(sys.argv[2]))
    print({name: round(statistics.median(values), 2) for name, values in found.items()}, file=sys.stderr)
    print(json.dumps(found))
