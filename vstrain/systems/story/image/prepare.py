"""An identity group: captioned pictures of one character from different shots of one long video."""

from __future__ import annotations

import numpy as np

from vstrain.nn.tokens import tokenizer
from vstrain.systems.story.frames import caption_bytes, fit, shots
from vstrain.systems.story.image.config import Config


def prepare(sample: dict, config: Config, rng: np.random.Generator, training: bool) -> dict[str, np.ndarray]:
    """images uint8 (K, 3, size, size), tokens int64 (K, length), caption uint8 (K, CAPTION_BYTES).

    The character is drawn among those seen in most shots; shots repeat only when there are fewer than K.
    """
    listed = shots(sample)
    names = sorted({name for shot in listed for name in shot["characters"]})
    seen = {name: [shot for shot in listed if name in shot["characters"]] for name in names} or {"": listed}
    most = max(map(len, seen.values()))
    candidates = [group for group in seen.values() if len(group) == most]
    group = candidates[rng.integers(len(candidates))]
    rounds = -(-config.images // most)
    order = np.concatenate([rng.permutation(most) for _ in range(rounds)])[: config.images]
    picked = [group[i] for i in sorted(order)]
    frames = sample["mp4"][[rng.integers(shot["start"], shot["end"]) for shot in picked]]
    tokens = tokenizer(config.text)
    return {
        "images": fit(frames, config.size),
        "tokens": np.stack([tokens(shot["caption"]) for shot in picked]),
        "caption": np.stack([caption_bytes(shot["caption"]) for shot in picked]),
    }
