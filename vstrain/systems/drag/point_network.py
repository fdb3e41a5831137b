"""From id maps to (handle, target) feature maps at every resolution of the UNet (spec drag, section 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vstrain.systems.drag.points import MAX_PAIRS

ID_CHANNELS = {"raw": 1, "normalised": 1, "sinusoidal": 8}  # channels of one encoded id map


def encode_ids(maps: Tensor, encoding: str) -> Tensor:
    """Id maps (B, 2, H, W) int -> float32 (B, 2 * ID_CHANNELS[encoding], H, W); no point gives 0."""
    ids = maps.float()
    if encoding == "raw":
        return ids
    if encoding == "normalised":
        return ids / MAX_PAIRS
    frequencies = torch.pi / MAX_PAIRS * 2.0 ** torch.arange(ID_CHANNELS["sinusoidal"] // 2, device=maps.device)
    angles = ids.unsqueeze(2) * frequencies.view(1, 1, -1, 1, 1)
    waves = torch.cat([angles.sin(), angles.cos()], dim=2) * (ids > 0).unsqueeze(2)
    return waves.flatten(1, 2)


def convolution(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)


class PointNetwork(nn.Module):
    """Bias-free convolutions, so that no points give exactly zero and a point acts only near itself.

    `stride`: side of a latent pixel in image pixels, a power of two. `levels`: number of UNet resolutions.
    The tap of level i is at stride * 2**i and has 2 * embed_dim * stride * 2**i channels.
    """

    def __init__(self, embed_dim: int, stride: int, levels: int, encoding: str):
        super().__init__()
        self.encoding = encoding
        self.first_tap = stride.bit_length() - 1
        widths = [2 * embed_dim * 2**i for i in range(self.first_tap + levels)]
        self.conv_in = convolution(2 * ID_CHANNELS[encoding], widths[0])
        self.blocks = nn.ModuleList(
            nn.Sequential(convolution(narrow, wide, stride=2), nn.SiLU(), convolution(wide, wide), nn.SiLU())
            for narrow, wide in zip(widths, widths[1:], strict=False)
        )
        self.channels = [width // 2 for width in widths[self.first_tap :]]  # of a handle map and of a target map

    def forward(self, maps: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(B, 2, H, W) int -> (handle, target) of every level i, each (B, channels[i], h_i, w_i)."""
        x = self.conv_in(encode_ids(maps, self.encoding).to(self.conv_in.weight.dtype))
        taps = [x]
        for block in self.blocks:
            x = block(x)
            taps.append(x)
        return [tuple(tap.chunk(2, dim=1)) for tap in taps[self.first_tap :]]
