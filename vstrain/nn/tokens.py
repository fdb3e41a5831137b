"""Text to token ids. Torch-free: it runs in data workers."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import xxhash

from vstrain.config.problems import InputError
from vstrain.nn.config import Text

PAD, BEGIN, FIRST_WORD = 0, 1, 2
WORD = re.compile(r"[^\W_]+")


def tokenize(text: str, length: int, vocab: int) -> np.ndarray:
    """Words hashed into `vocab` ids, int64 (length,): BEGIN, one id a word (case and punctuation do not
    matter), PAD to the end; words beyond `length` are cut. One text gives the same ids on every machine."""
    if vocab <= FIRST_WORD or length < 1:
        raise InputError(f"tokenize: vocab={vocab} must be above {FIRST_WORD} and length={length} at least 1")
    words = WORD.findall(text.lower())[: length - 1]
    ids = np.full(length, PAD, dtype=np.int64)
    ids[0] = BEGIN
    hashes = [xxhash.xxh3_64_intdigest(word.encode()) % (vocab - FIRST_WORD) for word in words]
    ids[1 : 1 + len(words)] = np.array(hashes, dtype=np.int64) + FIRST_WORD
    return ids


@lru_cache
def tokenizer(config: Text) -> Callable[[str], np.ndarray]:
    """The function text -> ids (config.length,) int64 that belongs to a text encoder."""
    if config.name == "tiny":
        return lambda text: tokenize(text, config.length, config.vocab)
    if config.path is None or not Path(config.path).is_dir():
        raise InputError(
            f"text.path={config.path}: expected a folder with a CLIP tokenizer and text model"
            " (transformers layout); set it, or use text.name=tiny"
        )
    from transformers import CLIPTokenizer

    clip = CLIPTokenizer.from_pretrained(config.path, local_files_only=True)
    fill = {"padding": "max_length", "truncation": True, "max_length": config.length}
    return lambda text: np.array(clip(text, **fill)["input_ids"], dtype=np.int64)
