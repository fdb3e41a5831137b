"""View attention and picture tokens against plain attention and a naive loop (spec sections 4.1, 4.3)."""

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from vstrain.systems.multiview.attention import Frames, PictureAttention, ViewAttention, attend_views

B, T, C, H, N, D = 2, 2, 3, 2, 5, 4


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def present():
    return torch.tensor([[True, False, True], [True, True, True]])


def softmax_read(query, keys, values):
    """One query (D,) over keys and values (M, D), NumPy float64."""
    scores = keys @ query / np.sqrt(len(query))
    weights = np.exp(scores - scores.max())
    return weights @ values / weights.sum()


@pytest.mark.parametrize("impl", ["sdpa", "math"])
def test_targets_read_themselves_and_present_conditions_in_one_softmax(present, impl):
    q, k, v = (random(B, T, H, N, D, seed=s) for s in range(3))
    seen_k, seen_v = (random(B, C, H, N, D, seed=s) for s in (3, 4))
    out = attend_views(q, k, v, seen_k, seen_v, present, impl).numpy()
    for b, t, h, n in np.ndindex(B, T, H, N):
        views = [c for c in range(C) if present[b, c]]
        keys = np.concatenate([k[b, t, h].numpy(), *(seen_k[b, c, h].numpy() for c in views)])
        values = np.concatenate([v[b, t, h].numpy(), *(seen_v[b, c, h].numpy() for c in views)])
        np.testing.assert_allclose(out[b, t, h, n], softmax_read(q[b, t, h, n].numpy(), keys, values), atol=1e-12)


def test_no_mask_is_all_present():
    q, k, v = (random(B, T, H, N, D, seed=s) for s in range(3))
    seen = [random(B, C, H, N, D, seed=s) for s in (3, 4)]
    everything = torch.ones(B, C, dtype=torch.bool)
    torch.testing.assert_close(
        attend_views(q, k, v, *seen, None, "sdpa"), attend_views(q, k, v, *seen, everything, "sdpa")
    )


def test_layer_is_plain_attention_over_concatenated_tokens():
    """The target's row is what the stock processor gives for the target with all frames' tokens as context; a condition
    frame's row is stock self-attention."""
    torch.manual_seed(0)
    layer = Attention(query_dim=8, heads=H, dim_head=D).double()
    tokens = random(B * (1 + C), N, 8)
    per_object = tokens.view(B, 1 + C, N, 8)
    layer.set_processor(AttnProcessor2_0())
    target = layer(per_object[:, 0], per_object.flatten(1, 2))
    alone = layer(per_object[:, 1:].flatten(0, 1))
    layer.set_processor(ViewAttention("layer", "sdpa"))
    out = layer(tokens, frames=Frames(1, C, None, tokens)).view(B, 1 + C, N, 8)
    torch.testing.assert_close(out[:, 0], target)
    torch.testing.assert_close(out[:, 1:].flatten(0, 1), alone)


def test_picture_tokens_add_a_second_reading_and_begin_without_effect():
    torch.manual_seed(0)
    layer = Attention(query_dim=8, cross_attention_dim=6, heads=H, dim_head=D).double()
    hidden, text, pictures = random(3, N, 8), random(3, 7, 6, seed=1), random(3, 4, 6, seed=2)
    layer.set_processor(AttnProcessor2_0())
    plain = layer(hidden, text)
    processor = PictureAttention(6, H * D, "sdpa").double()
    layer.set_processor(processor)
    frames = Frames(3, 0, None, pictures)
    torch.testing.assert_close(layer(hidden, text, frames=frames), plain, rtol=0, atol=1e-12)

    torch.nn.init.normal_(processor.to_v.weight)
    out = layer(hidden, text, frames=frames).detach()
    q = (hidden @ layer.to_q.weight.T).view(3, N, H, D).detach().numpy()
    expected = np.zeros((3, N, H, D))
    for keys, values, context in ((layer.to_k, layer.to_v, text), (processor.to_k, processor.to_v, pictures)):
        k, v = ((context @ project.weight.T).view(3, -1, H, D).detach().numpy() for project in (keys, values))
        for b, n, h in np.ndindex(3, N, H):
            expected[b, n, h] += softmax_read(q[b, n, h], k[b, :, h], v[b, :, h])
    expected = torch.from_numpy(expected.reshape(3, N, H * D)) @ layer.to_out[0].weight.T + layer.to_out[0].bias
    torch.testing.assert_close(out, expected.detach())
