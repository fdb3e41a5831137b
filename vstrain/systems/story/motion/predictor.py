"""The semantic motion predictor (arXiv 2405.01434, section 3.2): what frames between two pictures are about."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vstrain.nn.blocks import Block, Resampler
from vstrain.systems.story.motion.config import Predictor


def interpolate(first: Tensor, last: Tensor, frames: int) -> Tensor:
    """K_l = K_s + (l - 1) / (L - 1) (K_e - K_s). first, last (B, n, width) -> (B, L, n, width),
    both ends exact."""
    weight = torch.linspace(0, 1, frames, device=first.device, dtype=first.dtype)[:, None, None]
    return first[:, None] * (1 - weight) + last[:, None] * weight


class MotionPredictor(nn.Module):
    """P = K + out(B(K)): K from the image tokens of both ends, B transformer blocks over all L * n tokens
    with a code for frame and token. `out` is zero at first: an untrained predictor interpolates linearly.

    forward: first, last (B, M, input_width), tokens of an image encoder -> (B, L, tokens, width).
    """

    def __init__(self, config: Predictor, input_width: int, frames: int):
        super().__init__()
        self.frames = frames
        if config.input == "patch":
            shape = (config.resampler_layers, config.heads, config.head_dim)
            self.read = Resampler(input_width, config.width, config.tokens, *shape)
        else:
            self.read = Widen(input_width, config.width, config.tokens)
        self.frame_code = nn.Parameter(torch.randn(frames, 1, config.width) * config.width**-0.5)
        self.token_code = nn.Parameter(torch.randn(config.tokens, config.width) * config.width**-0.5)
        self.blocks = nn.Sequential(*(Block(config.width, config.heads, config.head_dim) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, config.width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, first: Tensor, last: Tensor) -> Tensor:
        line = interpolate(self.read(first), self.read(last), self.frames)
        hidden = (line + self.frame_code + self.token_code).flatten(1, 2)
        return line + self.out(self.norm(self.blocks(hidden))).unflatten(1, line.shape[1:3])


class Widen(nn.Module):
    """The class token (the first of (B, M, input_width)) to (B, tokens, width), normalised."""

    def __init__(self, input_width: int, width: int, tokens: int):
        super().__init__()
        self.tokens = tokens
        self.project = nn.Linear(input_width, tokens * width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.project(x[:, 0]).unflatten(1, (self.tokens, -1)))
