import pytest
import torch

from vstrain.nn.blocks import Attention, Block, Resampler
from vstrain.nn.config import Vision
from vstrain.nn.vision import VisionEncoder


def test_attention_with_free_head_width_equals_a_naive_one():
    torch.manual_seed(0)
    layer = Attention(width=8, heads=3, head_dim=5).double()  # 3 does not divide 8
    x, context = torch.randn(2, 4, 8, dtype=torch.float64), torch.randn(2, 6, 8, dtype=torch.float64)
    out = torch.zeros(2, 4, 15, dtype=torch.float64)
    for b in range(2):
        for h in range(3):
            part = slice(5 * h, 5 * h + 5)
            q = (x[b] @ layer.to_q.weight.T)[:, part]
            k = (context[b] @ layer.to_kv.weight[:15].T)[:, part]
            v = (context[b] @ layer.to_kv.weight[15:].T)[:, part]
            weight = (q @ k.T / 5**0.5).exp()
            out[b, :, part] = weight / weight.sum(dim=1, keepdim=True) @ v
    torch.testing.assert_close(layer(x, context), layer.to_out(out))


def test_resampler_gives_a_fixed_number_and_ignores_input_order():
    torch.manual_seed(0)
    resampler = Resampler(input_width=6, width=8, tokens=5, depth=2, heads=3, head_dim=4).double()
    x = torch.randn(2, 11, 6, dtype=torch.float64)
    out = resampler(x)
    assert out.shape == (2, 5, 8)
    torch.testing.assert_close(resampler(x.flip(1)), out)
    assert resampler(x[:, :3]).shape == (2, 5, 8)
    out.sum().backward()
    assert all(p.grad is not None for p in resampler.parameters())


def test_block_is_residual():
    block = Block(8, 3, 4)
    for layer in (block.attention.to_out, block.feed[2]):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    x = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x), x)


def test_vision_encoder_is_frozen_and_sees():
    torch.manual_seed(0)
    config = Vision(name="random", path=None, size=16, patch=8, width=12, layers=1, heads=2)
    encoder = VisionEncoder(config).train()
    assert not encoder.model.training
    assert not any(p.requires_grad for p in encoder.parameters())
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    tokens = encoder(pixels)
    assert tokens.shape == (2, 5, 12)
    moved = pixels.clone()
    moved[0, :, :16, :16] *= -1
    difference = (encoder(moved) - tokens).abs().amax(dim=(1, 2))
    assert difference[0] > 1e-3
    assert difference[1] == 0


def test_clip_vision_without_weights_says_what_to_do():
    with pytest.raises(ValueError, match="vision.path=None.*vision.name=random"):
        VisionEncoder(Vision(name="clip", path=None, size=16, patch=8, width=12, layers=1, heads=2))
