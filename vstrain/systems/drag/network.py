"""The drag editor's networks and how they meet (spec drag, sections 1 and 3).

encoder(source latent, empty text) -> bank        point network(id maps) -> projections -> points
unet([z_t, mask, masked source latent], t, (empty text, image tokens), bank, points) -> answer
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vstrain.diffusion.codec import build_codec
from vstrain.nn.attention import require
from vstrain.systems.drag import pretrained
from vstrain.systems.drag.attention import Bank, PointTerms, block_level, fused_blocks, install
from vstrain.systems.drag.config import Config
from vstrain.systems.drag.encoder import AppearanceEncoder
from vstrain.systems.drag.point_network import PointNetwork


class Conditions(NamedTuple):
    """All that the UNet reads beside z_t and t; none of it changes during an edit. Rows are samples."""

    inpaint: Tensor  # (B, 1 + C, h, w): mask, masked source latent
    tokens: Tensor  # (B, tokens, D): image prompt
    bank: Bank
    points: PointTerms

    def map(self, f: Callable[..., Tensor], *others: Conditions) -> Conditions:
        """Every tensor x replaced by f(x, the same tensor of each of `others`)."""
        all_of = (self, *others)
        return Conditions(
            f(*(c.inpaint for c in all_of)),
            f(*(c.tokens for c in all_of)),
            Bank({name: f(*(c.bank[name] for c in all_of)) for name in self.bank}),
            {name: tuple(f(*(c.points[name][i] for c in all_of)) for i in (0, 1)) for name in self.points},
        )

    def without_points(self) -> Conditions:
        """The null branch: reference, image, and mask stay."""
        return self._replace(points={n: tuple(map(torch.zeros_like, pair)) for n, pair in self.points.items()})


class PointProjections(nn.Module):
    """One LayerNorm and one bias-free, zero-initialised Linear per block, shared by handles and targets."""

    def __init__(self, levels: dict[str, int], channels: list[int], widths: dict[str, int]):
        """`levels`, `widths`: of every block, by name. `channels`: of the point maps, by level."""
        super().__init__()
        self.levels = levels
        self.blocks = nn.ModuleDict()
        for name, level in levels.items():
            linear = nn.Linear(channels[level], widths[name], bias=False)
            nn.init.zeros_(linear.weight)
            self.blocks[name.replace(".", "-")] = nn.Sequential(nn.LayerNorm(channels[level]), linear)

    def forward(self, maps: list[tuple[Tensor, Tensor]], keep: Tensor) -> PointTerms:
        """Point maps of every level and keep (B,) bool -> {block: (handle, target)}, each (B, L, C).

        Rows that are not kept are zero behind the Linear: LayerNorm makes its bias of a zero map, not zero.
        """
        kept = keep[:, None, None]
        return {
            name: tuple(self.blocks[name.replace(".", "-")](x.flatten(2).mT) * kept for x in maps[level])
            for name, level in self.levels.items()
        }


class DragModel(nn.Module):
    """Pictures are float RGB (B, 3, H, W) in [-1, 1], masks bool (B, H, W) with True where the picture may
    change, id maps int (B, 2, H, W), latents (B, C, h, w)."""

    def __init__(self, config: Config):
        super().__init__()
        require(config.attention)
        self.codec = build_codec(config.codec)
        self.factor = config.codec.factor
        self.unet = pretrained.load_unet(config)
        self.encoder = AppearanceEncoder(deepcopy(self.unet), config.codec.channels, config.points.fusion)
        install(self.unet, config.points.fusion, config.image.tokens, config.attention)
        fused = fused_blocks(self.unet, config.points.fusion)
        levels = {name: block_level(name, len(config.unet.channels)) for name in fused}
        widths = {name: block.attn1.inner_dim for name, block in fused.items()}
        self.point_network = PointNetwork(
            config.points.embed_dim, self.factor, len(config.unet.channels), config.points.ids
        )
        self.projections = PointProjections(levels, self.point_network.channels, widths)
        self.image_encoder = pretrained.ImageEncoder(config.image, config.text.width)
        if config.image.adapter is not None and not pretrained.on_meta():
            pretrained.load_adapter(config.image.adapter, self.image_encoder.project, self.unet)
        self.register_buffer("empty_text", pretrained.empty_text(config.text))
        if not config.train_unet:
            self.unet.requires_grad_(False)
            self.image_encoder.project.requires_grad_(False)

    def conditions(
        self,
        source: Tensor,
        mask: Tensor,
        maps: Tensor,
        keep_points: Tensor | None = None,
        keep_image: Tensor | None = None,
    ) -> Conditions:
        """`keep_points`, `keep_image` (B,) bool: rows that keep points, image prompt; default all."""
        everything = torch.ones(len(source), dtype=torch.bool, device=source.device)
        keep_points = everything if keep_points is None else keep_points
        keep_image = everything if keep_image is None else keep_image
        latent_mask = F.max_pool2d(mask[:, None].float(), self.factor)
        masked_source = self.codec.encode(source.masked_fill(mask[:, None], 0.0))
        bank = self.encoder(self.codec.encode(source), self.empty_text.expand(len(source), -1, -1))
        points = self.projections(self.point_network(maps), keep_points)
        return Conditions(
            torch.cat([latent_mask, masked_source], 1), self.image_encoder(source, keep_image), bank, points
        )

    def forward(self, z_t: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """Noisy latents (B, C, h, w) at t (B,) int64 -> the network's answer, of their shape."""
        text = self.empty_text.expand(len(z_t), -1, -1)
        return self.unet(
            torch.cat([z_t, conditions.inpaint], dim=1),
            t,
            (text, [conditions.tokens]),
            cross_attention_kwargs={"bank": conditions.bank, "points": conditions.points},
        ).sample
