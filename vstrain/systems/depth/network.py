"""The Depth Anything network: a DINOv2 encoder and a DPT head, from transformers' classes (depth spec,
section 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings

from vstrain.systems.depth.config import PATCH


@dataclass(frozen=True)
class Size:
    dim: int
    depth: int
    heads: int
    taps: tuple[int, int, int, int]  # blocks (from 0) that the V2 head reads; V1 reads the last four
    channels: tuple[int, int, int, int]  # of the four reassembled maps, shallow to deep
    features: int  # channels of the fusion blocks
    grid: int = 37  # side of the position table, patches
    swiglu: bool = False
    init_range: float = 0.02  # deviation of the encoder's random weights; wider for a narrow one that starts from them


SIZES = {
    "tiny": Size(128, 4, 2, (0, 1, 2, 3), (8, 16, 32, 64), 16, grid=9, init_range=0.05),
    "vits": Size(384, 12, 6, (2, 5, 8, 11), (48, 96, 192, 384), 64),
    "vitb": Size(768, 12, 12, (2, 5, 8, 11), (96, 192, 384, 768), 128),
    "vitl": Size(1024, 24, 16, (4, 11, 17, 23), (256, 512, 1024, 1024), 256),
    "vitg": Size(1536, 40, 24, (9, 19, 29, 39), (1536, 1536, 1536, 1536), 384, swiglu=True),
}


class OfficialEmbeddings(Dinov2Embeddings):
    """Token embeddings whose position table is resampled as DINOv2 releases do: bicubic by the *scale factor*
    (g + 0.1) / grid. transformers resamples to the target size, which differs at every size but the table's
    own."""

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        """The table (1, 1 + gh gw, D) for pictures of height x width pixels; `embeddings` is not read."""
        table = self.position_embeddings
        side = math.isqrt(table.shape[1] - 1)
        gh, gw = height // PATCH, width // PATCH
        if gh == gw == side:
            return table
        grid = table[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, scale_factor=((gh + 0.1) / side, (gw + 0.1) / side), mode="bicubic")
        grid = grid.permute(0, 2, 3, 1).reshape(1, gh * gw, -1).to(table.dtype)
        return torch.cat((table[:, :1], grid), dim=1)


def hf_config(size: str, version: str, max_depth: int | None = None) -> DepthAnythingConfig:
    """The transformers configuration of a size; `version` (v1 | v2) decides which blocks the head reads;
    `max_depth` makes it metric: sigmoid x max_depth metres instead of ReLU."""
    s = SIZES[size]
    taps = s.taps if version == "v2" else range(s.depth - 4, s.depth)
    backbone = Dinov2Config(
        hidden_size=s.dim,
        num_hidden_layers=s.depth,
        num_attention_heads=s.heads,
        use_swiglu_ffn=s.swiglu,
        initializer_range=s.init_range,
        image_size=s.grid * PATCH,
        patch_size=PATCH,
        out_indices=[tap + 1 for tap in taps],  # transformers counts the embeddings as stage 0
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    return DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=PATCH,
        reassemble_hidden_size=s.dim,
        neck_hidden_sizes=list(s.channels),
        fusion_hidden_size=s.features,
        depth_estimation_type="metric" if max_depth else "relative",
        max_depth=max_depth or 1,  # the relative head multiplies by it
    )


def build_network(
    size: str, version: str, pos_embed: str, max_depth: int | None = None
) -> DepthAnythingForDepthEstimation:
    """A randomly initialised network. Its `predicted_depth` is (B, H, W) for pictures (B, 3, H, W) normalised by
    vstrain.nn.augment.normalise, H and W multiples of 14: disparity-like, >= 0, larger is nearer; with `max_depth`,
    metres between 0 and it.

    The encoder starts as DINOv2 starts, the head from PyTorch's convolution default. Two parts can never get
    a gradient and are frozen: the mask token, and the first residual unit of the deepest fusion block."""
    net = DepthAnythingForDepthEstimation(hf_config(size, version, max_depth))
    if pos_embed == "official":
        net.backbone.embeddings.__class__ = OfficialEmbeddings  # the same parameters under the other rule
    for module in (*net.neck.modules(), *net.head.modules()):
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.reset_parameters()
    if max_depth is None:
        torch.nn.init.ones_(net.head.conv3.bias)  # ours: the output ReLU starts open; the loss does not see a shift
    net.backbone.embeddings.mask_token.requires_grad_(False)
    net.neck.fusion_stage.layers[0].residual_layer1.requires_grad_(False)
    return net
