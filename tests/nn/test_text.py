import numpy as np
import pytest
import torch

from vstrain.nn.config import Text
from vstrain.nn.text import TextEncoder
from vstrain.nn.tokens import BEGIN, PAD, tokenize, tokenizer

TINY = {"name": "tiny", "path": None, "length": 6, "vocab": 64, "width": 16, "layers": 1, "heads": 2}
CLIP_L = {"name": "clip", "path": None, "length": 77, "vocab": 49408, "width": 768, "layers": 12, "heads": 12}


def test_tokens_are_words():
    ids = tokenize("A red, ROUND ball", 8, 1000)
    assert ids.dtype == np.int64
    assert ids[0] == BEGIN
    assert (ids[5:] == PAD).all()
    assert (ids[1:5] >= 2).all()
    assert np.array_equal(ids, tokenize("a Red round (ball).", 8, 1000))
    assert tokenize("ball", 8, 1000)[1] == ids[4]
    assert np.array_equal(tokenize("a red round ball", 3, 1000), ids[:3])
    assert tokenize("", 3, 1000).tolist() == [BEGIN, PAD, PAD]


def test_token_ids_never_change():
    assert tokenize("red ball", 4, 1000).tolist() == [1, 593, 413, 0]


def test_tiny_vocabulary_is_refused():
    with pytest.raises(ValueError, match="vocab=2"):
        tokenize("ball", 4, 2)


def test_tiny_encoder_reads_word_order_and_trains():
    torch.manual_seed(0)
    config = Text(**TINY)
    encoder = TextEncoder(config)
    ids = torch.from_numpy(np.stack([tokenizer(config)(t) for t in ("red ball", "ball red", "red ball")]))
    states = encoder(ids)
    assert states.shape == (3, 6, 16)
    assert torch.equal(states[0], states[2])
    assert (states[0] - states[1]).abs().max() > 1e-3
    states.square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_clip_is_frozen_and_has_the_published_size():
    with torch.device("meta"):
        encoder = TextEncoder(Text(**CLIP_L))
    assert sum(p.numel() for p in encoder.parameters()) == 123_060_480
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder.train().model.training


def test_clip_without_weights_says_what_to_do():
    with pytest.raises(ValueError, match="text.path=None.*text.name=tiny"):
        TextEncoder(Text(**CLIP_L))
    with pytest.raises(ValueError, match="text.path=None.*text.name=tiny"):
        tokenizer(Text(**CLIP_L))
