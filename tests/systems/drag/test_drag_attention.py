"""Point-following attention against its formula, written once more with loops in float64."""

import math

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention

from vstrain.systems.drag.attention import PointAttention, block_level, fused_blocks
from vstrain.systems.drag.network import PointProjections

B, L, C, HEADS = 2, 6, 8, 2


def naive(attn, x, r, handle, target):
    """Token by token, head by head."""
    w = {name: getattr(attn, f"to_{name}").weight for name in "qkv"}
    width, out = C // HEADS, torch.zeros_like(x)
    for b in range(B):
        keys = [w["k"] @ x[b, j] + target[b, j] for j in range(L)]
        keys += [w["k"] @ r[b, j] + handle[b, j] for j in range(L)]
        values = [w["v"] @ x[b, j] for j in range(L)] + [w["v"] @ r[b, j] for j in range(L)]
        for i in range(L):
            query, mixed = w["q"] @ x[b, i] + target[b, i], torch.zeros(C, dtype=x.dtype)
            for head in range(HEADS):
                part = slice(head * width, (head + 1) * width)
                score = [math.exp(float(query[part] @ key[part]) / math.sqrt(width)) for key in keys]
                mixed[part] = sum(s * value[part] for s, value in zip(score, values, strict=True)) / sum(score)
            out[b, i] = attn.to_out[0].weight @ mixed + attn.to_out[0].bias
    return out


@pytest.fixture
def block():
    torch.manual_seed(0)
    attn = Attention(C, heads=HEADS, dim_head=C // HEADS).double().requires_grad_(False)
    x, r, handle, target = torch.randn(4, B, L, C, dtype=torch.float64)
    return attn, x, r, handle, target


def run(attn, x, r, handle, target, impl="sdpa"):
    attn.set_processor(PointAttention("block", impl))
    return attn(x, bank={"block": r}, points={"block": (handle, target)})


@pytest.mark.parametrize("impl", ["sdpa", "math"])
def test_the_formula(block, impl):
    torch.testing.assert_close(run(*block, impl=impl), naive(*block), rtol=1e-12, atol=1e-12)


def test_handles_and_targets_have_different_roles(block):
    attn, x, r, handle, target = block
    assert (run(*block) - naive(attn, x, r, target, handle)).abs().max() > 1e-2


def test_without_point_terms_it_is_plain_reference_attention(block):
    attn, x, r, handle, _ = block
    nothing = torch.zeros_like(handle)
    tokens = torch.cat([x, r], dim=1)
    query, keys, values = attn.to_q(x), attn.to_k(tokens), attn.to_v(tokens)
    split = [t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (query, keys, values)]
    weights = (split[0] @ split[1].mT / math.sqrt(C // HEADS)).softmax(-1)
    plain = attn.to_out[0]((weights @ split[2]).transpose(1, 2).flatten(2))
    torch.testing.assert_close(run(attn, x, r, nothing, nothing), plain, rtol=1e-12, atol=1e-12)


def test_a_target_reads_the_reference_at_its_handle(block):
    """With one code at target 1 and handle 4, query 1 sees its own token and reference token 4, half and half."""
    attn, x, r, *_ = block
    attn.to_q.weight.zero_(), attn.to_k.weight.zero_()
    handle, target = torch.zeros(2, B, L, C, dtype=torch.float64)
    handle[:, 4], target[:, 1] = 9.0, 9.0
    half = attn.to_out[0]((attn.to_v(r)[:, 4] + attn.to_v(x)[:, 1]) / 2)
    torch.testing.assert_close(run(attn, x, r, handle, target)[:, 1], half)


def test_dropped_rows_are_zero_behind_the_linear():
    torch.manual_seed(0)
    projections = PointProjections({"mid_block.x": 0}, [4], {"mid_block.x": C})
    norm, linear = projections.blocks["mid_block-x"]
    torch.nn.init.normal_(linear.weight)
    torch.nn.init.normal_(norm.bias)
    maps = [(torch.randn(B, 4, 2, 3), torch.zeros(B, 4, 2, 3))]
    handle, target = projections(maps, torch.tensor([True, False]))["mid_block.x"]
    assert handle.shape == target.shape == (B, 6, C)
    assert (handle[1] == 0).all() and (target[1] == 0).all()
    torch.testing.assert_close(target[0], linear(norm.bias).expand(6, C))  # a zero map is not a zero term
    row_major = maps[0][0][0].flatten(1).T
    torch.testing.assert_close(handle[0], linear(norm(row_major)))


def test_sd15_has_sixteen_blocks_at_the_right_levels():
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
    names = list(fused_blocks(unet, "full"))
    assert len(names) == 16 and len(fused_blocks(unet, "midup")) == 10 and len(fused_blocks(unet, "up")) == 9
    assert [name.split("_")[0] for name in names] == ["down"] * 6 + ["mid"] + ["up"] * 9
    assert [block_level(name, 4) for name in names] == [0, 0, 1, 1, 2, 2, 3, 2, 2, 2, 1, 1, 1, 0, 0, 0]


def test_fusing_where_nothing_is_says_so():
    unet = UNet2DConditionModel(
        block_out_channels=(4, 4), norm_num_groups=2, attention_head_dim=2, layers_per_block=1,
        cross_attention_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"), mid_block_type=None,
    )  # fmt: skip
    with pytest.raises(ValueError, match="system.points.fusion=midup"):
        fused_blocks(unet, "midup")
