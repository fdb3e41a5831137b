"""Story motion: the frames between two pictures, from a motion predictor and a video UNet."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from vstrain.data import keyed
from vstrain.diffusion.codec import build_codec
from vstrain.diffusion.guidance import guide, rescale
from vstrain.diffusion.sampler import sample
from vstrain.diffusion.schedule import NoiseSchedule
from vstrain.nn.blocks import Block, of_kind
from vstrain.nn.text import TextEncoder
from vstrain.nn.tokens import tokenizer
from vstrain.nn.vision import VisionEncoder
from vstrain.system import Objective
from vstrain.system import System as BaseSystem
from vstrain.systems.story import pictures
from vstrain.systems.story.motion.config import Config
from vstrain.systems.story.motion.network import VideoUnet
from vstrain.systems.story.motion.objective import dropped
from vstrain.systems.story.motion.predictor import MotionPredictor


class Condition(NamedTuple):
    """What the video UNet is told of B clips."""

    text: Tensor  # (B, length, width) text states
    motion: Tensor  # (B, L, tokens, predictor width) predicted image tokens of every frame
    ends: Tensor  # (B, C, 2, h, w) latents of the first and the last frame
    told: Tensor  # (B,) bool, False hides motion and ends

    def of_another(self) -> Condition:
        """Every clip gets the condition of its neighbour in the batch."""
        return Condition(*(x.roll(1, dims=0) for x in self))


class System(BaseSystem):
    config: Config

    def build(self) -> None:
        config = self.config
        self.codec = build_codec(config.codec)
        self.text = TextEncoder(config.text)
        self.vision = VisionEncoder(config.vision)
        self.predictor = MotionPredictor(config.predictor, config.vision.width, config.frames)
        self.video = VideoUnet(config)
        self.schedule = NoiseSchedule(config.diffusion)
        if not config.train_spatial:
            self.text.requires_grad_(False)
            self.video.freeze_spatial()

    def blocks(self) -> list[nn.Module]:
        kinds = (ResnetBlock2D, Transformer2DModel, AnimateDiffTransformer3D, CLIPEncoderLayer, Block)
        return of_kind(self, *kinds)

    @cached_property
    def empty_tokens(self) -> Tensor:
        return torch.from_numpy(tokenizer(self.config.text)(""))

    def pixels(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, L, 3, H, W) in [-1, 1]."""
        return batch["images"].float() / 127.5 - 1

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, L, 3, H, W) -> latents (B, C, L, h, w)."""
        return self.codec.encode(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2]).transpose(1, 2)

    def condition(self, pixels: Tensor, tokens: Tensor, told: Tensor) -> Condition:
        """From the first and the last of the frames `pixels` (B, L, 3, H, W) and the caption's tokens (B,
        length)."""
        first, last = self.vision(pixels[:, [0, -1]].flatten(0, 1)).unflatten(0, (-1, 2)).unbind(1)
        return Condition(self.text(tokens), self.predictor(first, last), self.encode(pixels[:, [0, -1]]), told)

    def losses(self, keys: Tensor, latents: Tensor, condition: Condition) -> Tensor:
        """(B,) float32: the denoising error of each clip; one timestep a clip."""
        noise, t = self.schedule.draw(keys, tuple(latents.shape[1:]))
        noise = noise.to(latents.dtype)
        prediction = self.video(self.schedule.add_noise(latents, noise, t), t, *condition)
        return self.schedule.loss(prediction, latents, noise, t)

    def objective(self, batch: dict[str, Tensor]) -> Objective:
        keys, pixels = batch["key"], self.pixels(batch)
        no_text, no_image = dropped(keys, self.config.drop)
        tokens = torch.where(no_text[:, None], self.empty_tokens.to(keys.device), batch["tokens"])
        condition = self.condition(pixels, tokens, told=~no_image)
        return Objective(self.losses(keys, self.encode(pixels), condition).mean(), {})

    def evaluate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """loss; loss_shuffled: the same with text and end frames of another clip."""
        keys, pixels = batch["key"], self.pixels(batch)
        condition = self.condition(pixels, batch["tokens"], torch.ones_like(keys, dtype=torch.bool))
        latents = self.encode(pixels)
        return {
            "loss": self.losses(keys, latents, condition),
            "loss_shuffled": self.losses(keys, latents, condition.of_another()),
        }

    @torch.no_grad()
    def draw(self, keys: Tensor, pixels: Tensor, tokens: Tensor) -> Tensor:
        """Sample clips between the first and the last frame of `pixels` (B, L, 3, H, W): -> the same shape,
        [-1, 1]."""
        sampling, yes = self.config.sampling, torch.ones_like(keys, dtype=torch.bool)
        told = self.condition(pixels, tokens, yes)
        free = told._replace(text=self.text(self.empty_tokens.to(keys.device).expand_as(tokens)), told=~yes)
        both = Condition(*(torch.cat(pair) for pair in zip(free, told, strict=True)))
        noise = keyed.normal(keys, tuple(self.encode(pixels).shape[1:]), "sampling")

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            without, having = self.video(torch.cat([x, x]), torch.cat([t, t]), *both).chunk(2)
            return rescale(guide(without, having, sampling.guidance), having, sampling.rescale)

        latents = sample(denoise, self.schedule, noise, sampling.steps, clip=self.codec.limit)
        decoded = self.codec.decode(latents.transpose(1, 2).flatten(0, 1))
        return decoded.unflatten(0, pixels.shape[:2]).clamp(-1, 1)

    def pictures(self, batch: dict[str, Tensor]) -> dict[str, np.ndarray]:
        """Clips from the data above what was sampled between their end frames."""
        shown = slice(self.config.sampling.shown)
        pixels = self.pixels(batch)[shown]
        rows = {"data": pixels, "predicted": self.draw(batch["key"][shown], pixels, batch["tokens"][shown])}
        ends = {0, self.config.frames - 1}
        return {"clips": pictures.clips(rows, batch["caption"][shown].cpu().numpy(), ends)}
