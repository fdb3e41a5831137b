"""A clip inside one shot of a long video, sampled by time, with the caption of the shot."""

from __future__ import annotations

import numpy as np

from vstrain.nn.tokens import tokenizer
from vstrain.systems.story.frames import caption_bytes, fit, shots
from vstrain.systems.story.motion.config import Config


def prepare(sample: dict, config: Config, rng: np.random.Generator, training: bool) -> dict[str, np.ndarray]:
    """images uint8 (L, 3, size, size), tokens int64 (length,), caption uint8 (CAPTION_BYTES,)."""
    listed = shots(sample)
    shot = listed[rng.integers(len(listed))]
    jitter = rng.uniform(-1, 1) * config.fps_jitter if training else 0.0
    index = clip_frames(
        shot["start"], shot["end"], sample["json"]["fps"] / (config.fps * (1 + jitter)), config.frames, rng
    )
    return {
        "images": fit(sample["mp4"][index], config.size),
        "tokens": tokenizer(config.text)(shot["caption"]),
        "caption": caption_bytes(shot["caption"]),
    }


def clip_frames(start: int, end: int, stride: float, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Indices (frames,) of a clip in [start, end), about `stride` apart, from a random begin. A shot too
    short for that is spread over the clip from its first to its last frame."""
    stride = min(stride, (end - 1 - start) / (frames - 1))
    begin = start + rng.uniform(0, end - 1 - start - stride * (frames - 1) + 1e-9)
    return np.clip(np.rint(begin + stride * np.arange(frames)), start, end - 1).astype(int)
