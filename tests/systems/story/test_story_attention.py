import math

import pytest
import torch
from diffusers import UNet2DConditionModel

from vstrain.nn.attention import attention
from vstrain.systems.story.attention import Sharing, TokenSets, consistent_attention, install, token_sets

G, B, H, N, D = 2, 3, 2, 10, 4
KEYS = torch.tensor([11, 12])
LAYERS = r"^up_blocks.*attn1$"


def qkv(images: int = B):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, G, images, H, N, D, generator=generator, dtype=torch.float64)


def unet(dtype=torch.float64) -> UNet2DConditionModel:
    torch.manual_seed(0)
    model = UNet2DConditionModel(
        in_channels=3,
        out_channels=3,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=12,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    return model.to(dtype).eval()


def inputs(pictures: int):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(pictures, 3, 8, 8, generator=generator, dtype=torch.float64)
    states = torch.randn(pictures, 5, 12, generator=generator, dtype=torch.float64)
    return x, torch.full((pictures,), 300), states


def naive(q, k, v, sets: TokenSets, allow) -> torch.Tensor:
    """The definition, token by token."""
    out = torch.zeros_like(q)
    for g in range(G):
        for i in range(B):
            read = [(i, n) for n in range(N)]
            for j in range(B):
                if j != i and allow[i][j]:
                    kept = sets.index[g, j] if sets.valid is None else sets.index[g, j][sets.valid[g, j]]
                    read += [(j, int(n)) for n in kept]
            for h in range(H):
                for n in range(N):
                    scores = [math.exp(float(q[g, i, h, n] @ k[g, j, h, m]) / math.sqrt(D)) for j, m in read]
                    mixed = sum(s * v[g, j, h, m] for s, (j, m) in zip(scores, read, strict=True))
                    out[g, i, h, n] = mixed / sum(scores)
    return out


@pytest.mark.parametrize("sampler", ["fixed", "bernoulli"])
@pytest.mark.parametrize("allow", [None, [[1, 0, 0], [1, 1, 0], [0, 1, 1]]])
@pytest.mark.parametrize("impl", ["sdpa", "math"])
def test_equals_the_definition(sampler, allow, impl):
    q, k, v = qkv()
    sets = token_sets(sampler, KEYS, B, N, 0.5, step=7)
    table = None if allow is None else torch.tensor(allow, dtype=torch.bool)
    result = consistent_attention(q, k, v, sets, table, impl)
    torch.testing.assert_close(result, naive(q, k, v, sets, allow or [[1] * B] * B), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("sampler", ["fixed", "bernoulli"])
def test_rate_one_is_joint_attention(sampler):
    q, k, v = qkv()
    result = consistent_attention(q, k, v, token_sets(sampler, KEYS, B, N, 1.0, 0))
    joint = [x.transpose(1, 2).flatten(2, 3) for x in (q, k, v)]  # (G, H, B * N, d)
    expected = attention(*joint).unflatten(2, (B, N)).transpose(1, 2)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)


def test_rate_zero_and_one_image_are_plain():
    q, k, v = qkv()
    plain = attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)).unflatten(0, (G, B))
    for sampler in ("fixed", "bernoulli"):
        assert torch.equal(consistent_attention(q, k, v, token_sets(sampler, KEYS, B, N, 0.0, 0)), plain)
    q, k, v = qkv(images=1)
    alone = consistent_attention(q, k, v, token_sets("fixed", KEYS, 1, N, 0.5, 0))
    assert torch.equal(alone[:, 0], attention(q[:, 0], k[:, 0], v[:, 0]))


def test_groups_do_not_mix_and_sources_get_gradient():
    q, k, v = (x.clone().requires_grad_() for x in qkv())
    consistent_attention(q, k, v, token_sets("fixed", KEYS, B, N, 0.5, 0))[0, 0].sum().backward()
    assert v.grad[1].abs().max() == 0  # the other group
    read = v.grad[0, 1:].abs().sum(dim=(1, 3)) > 0  # (B - 1, N): tokens of the other images that were read
    assert (read.sum(dim=1) == 5).all()


def test_sets_belong_to_story_step_size_and_image():
    sets = token_sets("fixed", KEYS, 4, 64, 0.5, step=3).index
    assert sets.shape == (2, 4, 32)
    assert all(len(set(row.tolist())) == 32 for row in sets.flatten(0, 1))
    assert torch.equal(token_sets("fixed", KEYS.flip(0), 2, 64, 0.5, step=3).index, sets.flip(0)[:, :2])
    assert not torch.equal(token_sets("fixed", KEYS, 4, 64, 0.5, step=4).index, sets)
    counts = token_sets("bernoulli", torch.arange(200), 2, 64, 0.3, 0).valid.sum(dim=2).float()
    assert counts.mean().item() == pytest.approx(0.3 * 64, rel=0.03)
    assert counts.std().item() == pytest.approx((64 * 0.3 * 0.7) ** 0.5, rel=0.2)
    assert token_sets("fixed", KEYS, 1, 10, 0.25, 0).index.shape[2] == 2  # round(2.5), half to even


def run(model, sharing, pictures, stories, images, halves=1):
    sharing.begin(KEYS[:stories], images, step=0, halves=halves)
    return model(*inputs(pictures)).sample


def test_installed_model_without_sharing_is_the_stock_model():
    model, sharing = unet(), Sharing(0.5, "fixed", "sdpa")
    stock = model(*inputs(4)).sample
    with install(model, sharing, LAYERS):
        torch.testing.assert_close(model(*inputs(4)).sample, stock, rtol=1e-12, atol=1e-12)
        assert (run(model, sharing, 4, 2, 2) - stock).abs().max() > 1e-6
        sharing.off()
        torch.testing.assert_close(model(*inputs(4)).sample, stock, rtol=1e-12, atol=1e-12)


def test_leaving_puts_the_old_processors_back():
    model = unet()
    before = {name: id(processor) for name, processor in model.attn_processors.items()}
    sharing = Sharing(0.5, "fixed", "sdpa")
    with pytest.raises(RuntimeError, match="inside"), install(model, sharing, LAYERS) as installed:
        changed = {name for name, processor in model.attn_processors.items() if id(processor) != before[name]}
        assert changed == {f"{name}.processor" for name in installed.layers}
        assert all(name.startswith("up_blocks") and name.endswith("attn1") for name in installed.layers)
        raise RuntimeError("inside")
    assert {name: id(processor) for name, processor in model.attn_processors.items()} == before


def test_half_major_batch_equals_each_half_alone():
    model, sharing = unet(), Sharing(0.5, "fixed", "sdpa")
    install(model, sharing, LAYERS)
    both = run(model, sharing, 8, stories=2, images=2, halves=2)
    x, t, states = inputs(8)
    for half in (slice(0, 4), slice(4, 8)):
        sharing.begin(KEYS, 2, step=0)
        alone = model(x[half], t[half], states[half]).sample
        torch.testing.assert_close(alone, both[half], rtol=1e-10, atol=1e-12)
    sharing.begin(KEYS[1:], 2, step=0)  # and each story alone
    torch.testing.assert_close(model(x[2:4], t[2:4], states[2:4]).sample, both[2:4], rtol=1e-10, atol=1e-12)


def test_activation_checkpointing_changes_nothing():
    gradients = []
    for checkpointing in (False, True):
        model, sharing = unet().train(), Sharing(0.5, "bernoulli", "sdpa")
        install(model, sharing, LAYERS)
        if checkpointing:
            model.enable_gradient_checkpointing()
        run(model, sharing, 4, 2, 2).square().sum().backward()
        gradients.append(model.conv_in.weight.grad.clone())
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_stays_near(dtype):
    q, k, v = qkv()
    sets = token_sets("fixed", KEYS, B, N, 0.5, 0)
    low = consistent_attention(q.to(dtype), k.to(dtype), v.to(dtype), sets)
    assert low.dtype == dtype
    torch.testing.assert_close(low.double(), consistent_attention(q, k, v, sets), rtol=0, atol=0.03)


def test_sentences():
    with pytest.raises(ValueError, match="nowhere' matches none of the"):
        install(unet(), Sharing(0.5, "fixed", "sdpa"), "^nowhere")
    with pytest.raises(ValueError, match="cross-attention layer 'up_blocks"):
        install(unet(), Sharing(0.5, "fixed", "sdpa"), r"^up_blocks.*attn2$")
    model, sharing = unet(), Sharing(0.5, "fixed", "sdpa")
    install(model, sharing, LAYERS)
    with pytest.raises(ValueError, match="1 halves x 2 stories x 3 images, but 4 pictures came"):
        run(model, sharing, 4, stories=2, images=3)
