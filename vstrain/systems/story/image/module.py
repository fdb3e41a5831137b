"""Story images: a latent text-to-image UNet whose pictures of one story share an identity."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from vstrain.data import keyed
from vstrain.diffusion.codec import build_codec
from vstrain.diffusion.guidance import guide, rescale
from vstrain.diffusion.sampler import sample
from vstrain.diffusion.schedule import NoiseSchedule
from vstrain.nn.blocks import of_kind
from vstrain.nn.text import TextEncoder
from vstrain.nn.tokens import tokenizer
from vstrain.system import Objective
from vstrain.system import System as BaseSystem
from vstrain.systems.story import pictures
from vstrain.systems.story.attention import Sharing, install
from vstrain.systems.story.image.config import Config
from vstrain.systems.story.image.objective import drop_captions, story_loss, story_noise
from vstrain.systems.story.unet import build_unet


class System(BaseSystem):
    config: Config

    def build(self) -> None:
        config = self.config
        self.codec = build_codec(config.codec)
        self.text = TextEncoder(config.text)
        self.unet = build_unet(config.unet, config.codec.channels, config.text.width)
        self.schedule = NoiseSchedule(config.diffusion)
        self.sharing = Sharing(config.csa.rate, config.csa.sampler, config.csa.kernel)
        install(self.unet, self.sharing, config.csa.layers)

    def blocks(self) -> list[nn.Module]:
        return of_kind(self, ResnetBlock2D, Transformer2DModel, CLIPEncoderLayer)

    @cached_property
    def empty_tokens(self) -> Tensor:
        return torch.from_numpy(tokenizer(self.config.text)(""))

    def latents(self, batch: dict[str, Tensor]) -> Tensor:
        """images uint8 (S, K, 3, H, W) -> latents (S, K, C, h, w)."""
        images = batch["images"]
        pixels = images.flatten(0, 1).float() / 127.5 - 1
        return self.codec.encode(pixels).unflatten(0, images.shape[:2])

    def objective(self, batch: dict[str, Tensor]) -> Objective:
        keys, latents = batch["key"], self.latents(batch)
        noise, t = story_noise(self.schedule, keys, latents)
        empty = self.empty_tokens.to(keys.device)
        tokens = drop_captions(batch["tokens"], empty, keys, self.config.caption_drop)
        return Objective(self._losses(keys, latents, tokens, noise, t).mean(), {})

    def _losses(self, keys: Tensor, latents: Tensor, tokens: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        states = self.text(tokens.flatten(0, 1))
        self.sharing.begin(keys, images=latents.shape[1], step=0)
        return story_loss(lambda x, t: self.unet(x, t, states).sample, self.schedule, latents, noise, t)

    def evaluate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """loss; loss_shuffled: the same with the captions of another story."""
        keys, latents, tokens = batch["key"], self.latents(batch), batch["tokens"]
        noise, t = story_noise(self.schedule, keys, latents)
        return {
            "loss": self._losses(keys, latents, tokens, noise, t),
            "loss_shuffled": self._losses(keys, latents, tokens.roll(1, dims=0), noise, t),
        }

    @torch.no_grad()
    def draw(self, keys: Tensor, tokens: Tensor, share: bool) -> Tensor:
        """Sample stories: keys (S,) int64, tokens (S, K, length) -> pixels (S, K, 3, H, W) in [-1, 1]. The
        noise of a picture depends on its story's key and its place alone, so `share` on and off start
        alike."""
        sampling, (stories, images) = self.config.sampling, tokens.shape[:2]
        side = self.config.size // self.config.codec.factor
        shape = (images, self.config.codec.channels, side, side)
        noise = keyed.normal(keys, shape, "sampling").flatten(0, 1)
        empty = self.empty_tokens.to(tokens.device).expand(stories * images, -1)
        states = self.text(torch.cat([empty, tokens.flatten(0, 1)]))

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            if share:
                self.sharing.begin(keys, images, step=int(t[0]), halves=2)
            free, told = self.unet(torch.cat([x, x]), torch.cat([t, t]), states).sample.chunk(2)
            return rescale(guide(free, told, sampling.guidance), told, sampling.rescale)

        self.sharing.off()
        latents = sample(denoise, self.schedule, noise, sampling.steps, clip=self.codec.limit)
        self.sharing.off()
        return self.codec.decode(latents).clamp(-1, 1).unflatten(0, (stories, images))

    def pictures(self, batch: dict[str, Tensor]) -> dict[str, np.ndarray]:
        """Each story three times: from the data, sampled without sharing, sampled with it from the same
        noise."""
        shown = slice(self.config.sampling.shown)
        keys, tokens = batch["key"][shown], batch["tokens"][shown]
        rows = {
            "data": batch["images"][shown].float() / 127.5 - 1,
            "each alone": self.draw(keys, tokens, share=False),
            "shared": self.draw(keys, tokens, share=True),
        }
        return {"stories": pictures.stories(rows, batch["caption"][shown].cpu().numpy())}
