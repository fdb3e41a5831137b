"""What data workers run in these tests, in a module of its own that is quick to import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from vstrain.data.kinds import SampleError
from vstrain.data.reader import empty


def prepare(sample: dict, rng: np.random.Generator) -> dict:
    return {"image": sample["png"], "draw": np.float32(rng.random()), "name": sample["__key__"]}


def shaped(sample: dict, rng: np.random.Generator) -> dict:
    bucket = sample.bucket
    image = np.resize(sample["png"], (bucket.height, bucket.width, 3))
    return {"image": image, "draw": np.float32(rng.random()), "name": sample["__key__"]}


def refuses_some(sample: dict, rng) -> dict:
    match sample["__key__"]:
        case "train003":
            raise SampleError("sample train003: no valid pixel")
        case "train005":
            return prepare(sample, rng) | {"draw": np.float32("nan")}
        case "train007":
            return prepare(sample, rng) | {"image": sample["png"][:9]}
    return prepare(sample, rng)


def dies(sample: dict, rng) -> dict:
    """Kills its worker at sample train011: the first time only, where FLAG names a file to remember by."""
    flag = os.environ.get("FLAG")
    if sample["__key__"] == "train011" and Path(flag).parent.name == "always":
        os.kill(os.getpid(), signal.SIGKILL)
    if sample["__key__"] == "train011" and not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return prepare(sample, rng)


def hangs(sample: dict, rng) -> dict:
    if sample["__key__"] == "train011" and not Path(os.environ["FLAG"]).exists():
        Path(os.environ["FLAG"]).touch()
        time.sleep(1000)
    return prepare(sample, rng)


def fails(sample: dict, rng) -> dict:
    return prepare(sample, rng) | ({"image": 1 / 0} if sample["__key__"] == "train011" else {})


def placed(sample: dict, rng) -> dict:
    """As `prepare`, written into the batch where that is possible; train004 is refused after half of it is written."""
    image = empty(sample, "image", (16, 16, 3), np.uint8)
    image[:8] = sample["png"][:8]
    if sample["__key__"] == "train004":
        raise SampleError("sample train004: refused half-way")
    image[8:] = sample["png"][8:]
    return {"image": image, "draw": np.float32(rng.random()), "name": sample["__key__"]}


def refused(sample: dict, rng) -> dict:
    if sample["__key__"] == "train004":
        raise SampleError("sample train004: refused half-way")
    return prepare(sample, rng)


if __name__ == "__main__":  # batches for ever, for a test that kills this process
    import sys

    from vstrain.data import loader
    from vstrain.data.stream import Arrangement

    index = loader.open_index(sys.argv[1:], "shards")
    means = loader.Means(workers=2)
    for batch in loader.train_batches(
        [index], [1.0], prepare, Arrangement(0, 8), batch_size=4, accumulate=1, steps=10**9, means=means
    ):
        print(len(batch["name"]), flush=True)
