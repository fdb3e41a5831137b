"""The network against the published definition, written out in plain calls on tensors with the official names."""

import math

import pytest
import torch
from torch.nn import functional as F

from tests.systems.depth.test_depth_network import official_positions
from vstrain.interop.depth_anything import disk_state, to_official
from vstrain.systems.depth import network
from vstrain.systems.depth.network import Size, build_network

NARROW = Size(128, 8, 2, (1, 3, 5, 7), (16, 32, 64, 64), 16)  # with the released position table of 37 x 37
SIZES = [(70, 98), (140, 182), (252, 252), (518, 518)]


def published(w: dict, x: torch.Tensor, size: Size, version: str, max_depth: float | None) -> torch.Tensor:
    """(B, H, W) of normalised pictures (B, 3, H, W): spec sections 1 and 9, in float64."""
    w = {name: tensor.double() for name, tensor in w.items()}
    x = x.double()
    count, gh, gw = len(x), x.shape[2] // 14, x.shape[3] // 14

    def norm(y, at):
        centred = y - y.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{at}.weight"] + w[f"{at}.bias"]

    def linear(y, at):
        return y @ w[f"{at}.weight"].T + w[f"{at}.bias"]

    def attention(y, at):
        rows = linear(y, f"{at}.qkv")
        q, k, v = (
            part.reshape(count, -1, size.heads, size.dim // size.heads).transpose(1, 2)
            for part in rows.chunk(3, dim=-1)
        )
        shares = (q @ k.transpose(-1, -2) / math.sqrt(size.dim // size.heads)).softmax(-1)
        return linear((shares @ v).transpose(1, 2).reshape(count, -1, size.dim), f"{at}.proj")

    def feed_forward(y, at):
        if f"{at}.w12.weight" in w:
            gate, value = linear(y, f"{at}.w12").chunk(2, dim=-1)
            return linear(gate * torch.sigmoid(gate) * value, f"{at}.w3")
        hidden = linear(y, f"{at}.fc1")
        return linear(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), f"{at}.fc2")

    patches = x.unfold(2, 14, 14).unfold(3, 14, 14).permute(0, 2, 3, 1, 4, 5).reshape(count, gh * gw, -1)
    tokens = patches @ w["pretrained.patch_embed.proj.weight"].flatten(1).T + w["pretrained.patch_embed.proj.bias"]
    table = w["pretrained.pos_embed"]
    places = table[:, 1:] if gh == gw == size.grid else official_positions(table, gh, gw)
    y = torch.cat(((w["pretrained.cls_token"] + table[:, :1]).expand(count, -1, -1), tokens + places), dim=1)
    taps = size.taps if version == "v2" else range(size.depth - 4, size.depth)
    read = []
    for i in range(size.depth):
        at = f"pretrained.blocks.{i}"
        y = y + w[f"{at}.ls1.gamma"] * attention(norm(y, f"{at}.norm1"), f"{at}.attn")
        y = y + w[f"{at}.ls2.gamma"] * feed_forward(norm(y, f"{at}.norm2"), f"{at}.mlp")
        if i in taps:
            read.append(norm(y, "pretrained.norm")[:, 1:].transpose(1, 2).reshape(count, size.dim, gh, gw))

    def conv(y, at, **how):
        return F.conv2d(y, w[f"depth_head.{at}.weight"], w.get(f"depth_head.{at}.bias"), **how)

    def grow(y, at, factor):
        return F.conv_transpose2d(y, w[f"depth_head.{at}.weight"], w[f"depth_head.{at}.bias"], stride=factor)

    def unit(y, at):
        return y + conv(conv(y.relu(), f"{at}.conv1", padding=1).relu(), f"{at}.conv2", padding=1)

    def resize(y, height, width):
        return F.interpolate(y, (height, width), mode="bilinear", align_corners=True)

    maps = [conv(y, f"projects.{i}") for i, y in enumerate(read)]
    maps = [
        grow(maps[0], "resize_layers.0", 4),
        grow(maps[1], "resize_layers.1", 2),
        maps[2],
        conv(maps[3], "resize_layers.3", stride=2, padding=1),
    ]
    maps = [conv(y, f"scratch.layer{i + 1}_rn", padding=1) for i, y in enumerate(maps)]
    y = None
    for level in (4, 3, 2, 1):
        at, skip = f"scratch.refinenet{level}", maps[level - 1]
        y = skip if y is None else y + unit(skip, f"{at}.resConfUnit1")
        y = unit(y, f"{at}.resConfUnit2")
        y = resize(y, *(maps[level - 2].shape[2:] if level > 1 else (8 * gh, 8 * gw)))
        y = conv(y, f"{at}.out_conv")
    y = resize(conv(y, "scratch.output_conv1", padding=1), 14 * gh, 14 * gw)
    y = conv(conv(y, "scratch.output_conv2.0", padding=1).relu(), "scratch.output_conv2.2")[:, 0]
    return y.relu() if max_depth is None else y.sigmoid() * max_depth


def lively(size: str, version: str, max_depth: int | None):
    """A network whose every part shows in its output: random scales, positions and biases, an output that is not flat."""
    torch.manual_seed(0)
    net = build_network(size, version, "official", max_depth).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "norm" in name or "lambda1" in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.2)
        net.backbone.embeddings.position_embeddings.normal_()
        net.backbone.embeddings.cls_token.normal_()
        net.head.conv3.weight.mul_(8)
        if max_depth is None:  # the output ReLU cuts a tenth of the pixels
            net.head.conv3.weight.abs_()
            net.head.conv3.bias.zero_()
            net.head.conv3.bias.sub_(net(torch.randn(1, 3, 70, 98)).predicted_depth.quantile(0.1))
    return net


def check(net, size: Size, version: str, max_depth: int | None, shape: tuple[int, int], count: int = 1) -> None:
    pixels = torch.randn(count, 3, *shape)
    official = to_official(disk_state(net))
    with torch.no_grad():
        found = net(pixel_values=pixels).predicted_depth.double()
        expected = published(official, pixels, size, version, max_depth)
    assert found.shape == expected.shape == (count, *shape)
    assert expected.std() > 0.05 * (max_depth or 1) ** 0.5  # a constant map would agree too easily
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize(("version", "max_depth"), [("v2", None), ("v1", None), ("v2", 20)])
def test_forward_is_the_published_definition(monkeypatch, version, max_depth, shape):
    monkeypatch.setitem(network.SIZES, "tiny", NARROW)
    check(lively("tiny", version, max_depth), NARROW, version, max_depth, shape)


def test_forward_with_swiglu_is_the_published_definition(monkeypatch):
    swiglu = Size(128, 4, 2, (0, 1, 2, 3), (32, 32, 32, 32), 16, swiglu=True)
    monkeypatch.setitem(network.SIZES, "tiny", swiglu)
    check(lively("tiny", "v2", None), swiglu, "v2", None, (70, 98), count=2)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_forward_of_vits_is_the_published_definition(version):
    check(lively("vits", version, None), network.SIZES["vits"], version, None, (70, 98), count=2)
