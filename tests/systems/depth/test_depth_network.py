"""Counts, taps, the position rule and what is frozen."""

import math

import pytest
import torch
from torch.nn import functional as F

from vstrain.nn.augment import normalise
from vstrain.systems.depth.config import PATCH
from vstrain.systems.depth.network import SIZES, build_network

# parameters of the network, its encoder and its head, and tensors of the official checkpoint
PUBLISHED = {
    "vits": (24_785_089, 22_056_576, 2_728_513, 239),
    "vitb": (97_470_785, 86_580_480, 10_890_305, 239),
    "vitl": (335_315_649, 304_368_640, 30_947_009, 407),
    "vitg": (1_258_132_225, 1_136_480_768, 121_651_457, 631),
}


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_counts(size):
    with torch.device("meta"):
        net = build_network(size, "v2", "official")
    total, encoder, head, tensors = PUBLISHED[size]
    assert (count(net), count(net.backbone), count(net.neck) + count(net.head)) == (total, encoder, head)
    # transformers keeps query, key and value apart (and gate and up of SwiGLU): that many tensors more
    split = 4 * SIZES[size].depth + (2 * SIZES[size].depth if SIZES[size].swiglu else 0)
    assert len(net.state_dict()) == tensors + split


@pytest.mark.parametrize(
    ("size", "version", "taps"),
    [
        ("vits", "v2", [3, 6, 9, 12]),
        ("vits", "v1", [9, 10, 11, 12]),
        ("vitl", "v2", [5, 12, 18, 24]),
        ("vitl", "v1", [21, 22, 23, 24]),
        ("vitg", "v2", [10, 20, 30, 40]),
    ],
)
def test_taps_by_version(size, version, taps):
    with torch.device("meta"):
        net = build_network(size, version, "official")
    assert list(net.backbone.config.out_indices) == taps
    assert net.backbone.config.apply_layernorm and not net.backbone.config.reshape_hidden_states


def official_positions(table, gh, gw):
    """Cubic convolution (a = -0.75) written out, source coordinate (i + 0.5) / ((g + 0.1) / side) - 0.5,
    edges held."""
    side = math.isqrt(table.shape[1] - 1)
    grid = table[0, 1:].double().reshape(side, side, -1)

    def weights(size):
        w, a = torch.zeros(size, side, dtype=torch.float64), -0.75
        for i in range(size):
            x = (i + 0.5) * side / (size + 0.1) - 0.5
            for j in range(math.floor(x) - 1, math.floor(x) + 3):
                t = abs(x - j)
                near = ((a + 2) * t - (a + 3)) * t * t + 1
                far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
                w[i, min(max(j, 0), side - 1)] += near if t <= 1 else far
        return w

    return torch.einsum("yi,xj,ijd->yxd", weights(gh), weights(gw), grid).reshape(1, gh * gw, -1)


@pytest.mark.parametrize("grid", [(9, 9), (4, 4), (12, 7), (9, 20)])
def test_position_rule_is_the_official_one(grid):
    torch.manual_seed(0)
    embeddings = build_network("tiny", "v2", "official").backbone.embeddings
    table = embeddings.interpolate_pos_encoding(torch.empty(1, 0, 128), PATCH * grid[0], PATCH * grid[1])
    if grid == (9, 9):
        assert table is embeddings.position_embeddings
        return
    expected = official_positions(embeddings.position_embeddings.detach(), *grid)
    torch.testing.assert_close(table[:, 1:].double(), expected, atol=2e-6, rtol=0)
    assert torch.equal(table[:, :1], embeddings.position_embeddings[:, :1])


def test_the_two_position_rules_agree_at_the_native_size_only():
    nets = {}
    for rule in ("official", "hf"):
        torch.manual_seed(0)
        nets[rule] = build_network("tiny", "v2", rule).eval()
    native, other = torch.randn(1, 3, 126, 126), torch.randn(1, 3, 126, 168)
    with torch.no_grad():
        same = [net(native).predicted_depth for net in nets.values()]
        differ = [net(other).predicted_depth for net in nets.values()]
    assert torch.equal(*same) and same[0].shape == (1, 126, 126)
    assert differ[0].shape == (1, 126, 168) and (differ[0] - differ[1]).abs().max() > 1e-6


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_every_trainable_parameter_gets_a_gradient_and_only_the_dead_ones_are_frozen(version):
    torch.manual_seed(0)
    net = build_network("tiny", version, "official")
    net(torch.randn(2, 3, 56, 56)).predicted_depth.square().sum().backward()
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    dead = "neck.fusion_stage.layers.0.residual_layer1.convolution"
    assert frozen == {"backbone.embeddings.mask_token"} | {f"{dead}{j}.{w}" for j in (1, 2) for w in ("weight", "bias")}
    without = [
        n for n, p in net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)
    ]
    # the head reads patches after the last block: V2's spaced taps and V1's last ones leave nothing else
    # unused
    assert without == []


def test_initialisation_of_encoder_and_head():
    torch.manual_seed(0)
    net = build_network("tiny", "v2", "official")
    weight = net.backbone.encoder.layer[0].mlp.fc1.weight
    assert weight.std().item() == pytest.approx(SIZES["tiny"].init_range, rel=0.1)
    assert (net.backbone.encoder.layer[0].layer_scale1.lambda1 == 1).all()
    conv = net.neck.convs[3]
    bound = 1 / math.sqrt(conv.weight[0].numel())  # PyTorch's default: U(-1, 1) / sqrt(fan in)
    assert conv.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    for seed in range(5):  # a closed output ReLU would never learn
        torch.manual_seed(seed)
        assert (build_network("tiny", "v2", "official")(torch.randn(1, 3, 56, 56)).predicted_depth > 0).all()


def test_normalise_is_imagenets():
    image = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    x = normalise(image)
    assert x.shape == (2, 3, 4, 5) and x.dtype == torch.float32
    for c, (mean, std) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)):
        torch.testing.assert_close(x[:, c], (image[..., c] / 255 - mean) / std)


def test_head_against_a_plain_functional_dpt():
    """The whole head of spec section 1 written out with functional calls, on the network's own weights."""
    torch.manual_seed(0)
    net = build_network("tiny", "v2", "official").eval()
    x = torch.randn(1, 3, 70, 98)
    gh, gw = 5, 7
    w = dict(net.neck.named_parameters()) | {f"head.{k}": v for k, v in net.head.named_parameters()}
    resize = lambda y, size: F.interpolate(y, size, mode="bilinear", align_corners=True)  # noqa: E731

    def rcu(y, at):
        out = F.conv2d(F.relu(y), w[f"{at}.convolution1.weight"], w[f"{at}.convolution1.bias"], padding=1)
        return y + F.conv2d(F.relu(out), w[f"{at}.convolution2.weight"], w[f"{at}.convolution2.bias"], padding=1)

    with torch.no_grad():
        tokens = net.backbone(x).feature_maps
        maps = []
        for i, t in enumerate(tokens):
            at = f"reassemble_stage.layers.{i}"
            y = t[:, 1:].transpose(1, 2).reshape(1, 128, gh, gw)
            y = F.conv2d(y, w[f"{at}.projection.weight"], w[f"{at}.projection.bias"])
            if i < 2:
                y = F.conv_transpose2d(y, w[f"{at}.resize.weight"], w[f"{at}.resize.bias"], stride=4 // 2**i)
            if i == 3:
                y = F.conv2d(y, w[f"{at}.resize.weight"], w[f"{at}.resize.bias"], stride=2, padding=1)
            maps.append(F.conv2d(y, w[f"convs.{i}.weight"], padding=1))
        assert [tuple(m.shape[2:]) for m in maps] == [(20, 28), (10, 14), (5, 7), (3, 4)]
        y = None
        for j in range(4):
            at, skip = f"fusion_stage.layers.{j}", maps[3 - j]
            y = skip if y is None else y + rcu(skip, f"{at}.residual_layer1")
            y = rcu(y, f"{at}.residual_layer2")
            y = resize(y, maps[2 - j].shape[2:] if j < 3 else (8 * gh, 8 * gw))
            y = F.conv2d(y, w[f"{at}.projection.weight"], w[f"{at}.projection.bias"])
        y = resize(F.conv2d(y, w["head.conv1.weight"], w["head.conv1.bias"], padding=1), (14 * gh, 14 * gw))
        y = F.relu(F.conv2d(y, w["head.conv2.weight"], w["head.conv2.bias"], padding=1))
        expected = F.relu(F.conv2d(y, w["head.conv3.weight"], w["head.conv3.bias"]))[:, 0]
        torch.testing.assert_close(net(x).predicted_depth, expected, atol=1e-5, rtol=1e-5)
