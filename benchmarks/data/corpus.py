"""The corpus of the benchmark, made here and the same on every machine: pictures with a 16-bit depth map and a small JSON.

A picture has the 1/f spectrum of a photograph, hard edges (polygons) and some noise; it is stored as JPEG, quality 90,
4:2:0, 640x480 to 1024x768. Its depth is smooth with steps at the same polygons and noise in the low bits, as a sensor
gives. Sample n is a function of n alone. Everything lies under `<root>/corpus-<samples>/`:

tar/images/   shard-000000.tar ... -000011.tar with jpg, json
tar/depth/    the same JPEG bytes with png (16 bit) and json
<peer>/...    what a peer makes of these two, see `Peer.build`
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import tarfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import cv2
import numpy as np

SHARDS = 12
VERSION = 1  # a change of the pictures makes a new corpus
VARIANTS = {"images": ("jpg", "json"), "depth": ("jpg", "png", "json")}


def folder(root: Path, samples: int) -> Path:
    return root / f"corpus-{samples}-v{VERSION}"


def shards(corpus: Path, variant: str) -> list[Path]:
    return sorted((corpus / "tar" / variant).glob("shard-*.tar"))


def read(corpus: Path, variant: str) -> Iterator[dict]:
    """Every sample in order: {"key": int, "jpg": bytes, "png": bytes, "json": bytes}."""
    for path in shards(corpus, variant):
        sample: dict = {}
        with tarfile.open(path) as tar:
            for member in tar:
                stem, name = member.name.split(".", 1)
                if sample and sample["key"] != int(stem):
                    yield sample
                    sample = {}
                sample["key"] = int(stem)
                sample[name] = tar.extractfile(member).read()
        yield sample


def once(target: Path, make: Callable[[Path], None]) -> Path:
    """`make(temporary folder)`, then its rename to `target`; nothing when that is there already."""
    if not target.exists():
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        make(temporary)
        temporary.rename(target)
    return target


def make(root: Path, samples: int, processes: int = 2) -> Path:
    """The tar shards of the corpus; its folder. About 0.1 s a sample and process, once."""
    corpus = folder(root, samples)
    once(corpus / "tar", lambda tar: _write(tar, samples, processes))
    return corpus


def _write(tar: Path, samples: int, processes: int) -> None:
    import webdataset

    bounds = np.linspace(0, samples, SHARDS + 1).astype(int)
    for variant in VARIANTS:
        (tar / variant).mkdir()
    with multiprocessing.get_context("spawn").Pool(processes, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        encoded = pool.imap(encoded_sample, range(samples), chunksize=8)
        for shard in range(SHARDS):
            writers = {
                variant: webdataset.TarWriter(str(tar / variant / f"shard-{shard:06d}.tar"), encoder=False, mtime=0)
                for variant in VARIANTS
            }
            for _ in range(bounds[shard], bounds[shard + 1]):
                sample = next(encoded)
                for variant, names in VARIANTS.items():
                    members = {name: sample[name] for name in names}
                    writers[variant].write({"__key__": f"{sample['key']:06d}", **members})
            for writer in writers.values():
                writer.close()


def encoded_sample(n: int) -> dict:
    import simplejpeg

    image, depth = picture(n)
    facts = {"unit": "depth", "source": "benchmark", "width": image.shape[1], "height": image.shape[0]}
    return {
        "key": n,
        "jpg": simplejpeg.encode_jpeg(image, quality=90, colorsubsampling="420"),
        "png": cv2.imencode(".png", depth, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes(),
        "json": json.dumps(facts).encode(),
    }


def picture(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Sample n: uint8 (H, W, 3) and uint16 (H, W)."""
    rng = np.random.default_rng([VERSION, n])
    width = 16 * int(rng.integers(40, 65))
    height = width * 3 // 4
    light, red, blue = (_window(rng, 1.5, height, width) for _ in range(3))
    image = 118 + 42 * light[..., None] + 14 * np.stack([red, -0.5 * (red + blue), blue], -1)
    depth = 20_000 + 6_000 * _window(rng, 3.2, height, width) + np.linspace(8_000, 0, height)[:, None]
    for _ in range(10):
        corners = rng.uniform(0, 1, (int(rng.integers(3, 7)), 2)) * (width, height) * rng.uniform(0.1, 0.6)
        corners += rng.uniform(-0.1, 0.8, 2) * (width, height)
        inside = cv2.fillPoly(np.zeros((height, width), np.uint8), [cv2.convexHull(corners.astype(np.int32))], 1) > 0
        image[inside] = 0.45 * image[inside] + 0.55 * rng.uniform(20, 235, 3)
        depth[inside] -= rng.uniform(500, 4_000)
    image += 0.8 * rng.standard_normal((height, width, 1), np.float32)
    depth += 2.2 * rng.standard_normal((height, width), np.float32)
    return image.clip(0, 255).astype(np.uint8), depth.clip(1, 65535).astype(np.uint16)


def _window(rng: np.random.Generator, power: float, height: int, width: int) -> np.ndarray:
    """A random window, mirrored at random, of one of four large fields with the amplitude spectrum 1 / f^power."""
    field = _field(power, int(rng.integers(4)))
    top, left = (int(rng.integers(0, have - want)) for have, want in zip(field.shape, (height, width), strict=True))
    return field[top : top + height, left : left + width][:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]


@cache
def _field(power: float, number: int, height: int = 1536, width: int = 2048) -> np.ndarray:
    white = np.random.default_rng([VERSION, number, int(10 * power)]).standard_normal((height, width))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    field = np.fft.irfft2(np.fft.rfft2(white) / frequency**power, s=(height, width))
    return (field / field.std()).astype(np.float32)
