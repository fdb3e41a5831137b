"""Multi-view boost: pictures of an object with known poses, and a pose -> the object from there."""

from __future__ import annotations

import numpy as np
import torch
from diffusers.models.embeddings import IPAdapterPlusImageProjectionBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from vstrain.data import keyed
from vstrain.diffusion.codec import build_codec
from vstrain.diffusion.schedule import NoiseSchedule
from vstrain.nn.blocks import of_kind
from vstrain.nn.tokens import tokenizer
from vstrain.system import Objective, ParamGroup
from vstrain.system import System as BaseSystem
from vstrain.systems.multiview.grid import view_grid
from vstrain.systems.multiview.network import MultiviewUNet
from vstrain.systems.multiview.objective import Conditions, draw_null, null, shuffled, wrong_pose
from vstrain.systems.multiview.sample import sample_targets

PICTURED = 4  # objects in the sampling picture


class System(BaseSystem):
    """Trains the conditioned denoiser; the codec and CLIP encoders stay frozen."""

    def build(self) -> None:
        self.network = MultiviewUNet(self.config)
        self.codec = build_codec(self.config.codec)
        self.schedule = NoiseSchedule(self.config.diffusion)

    def objective(self, batch: dict[str, Tensor]) -> Objective:
        everything, text, pictures = draw_null(keyed.uniform(batch["key"], "null"), self.config.dropout)
        conditions = null(self.conditions(batch), everything, text, pictures, self.null_ids())
        return Objective(self._losses(batch, conditions).mean(), {})

    def evaluate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        conditions = self.conditions(batch)
        return {
            "loss": self._losses(batch, conditions),
            "loss_shuffled": self._losses(batch, shuffled(conditions)),
            "loss_wrong_pose": self._losses(batch, wrong_pose(conditions)),
        }

    def pictures(self, batch: dict[str, Tensor]) -> dict[str, np.ndarray]:
        batch = {name: value[:PICTURED] for name, value in batch.items()}
        return {"novel_views": view_grid(batch, self.sample(batch, self.conditions(batch)))}

    def blocks(self) -> list[torch.nn.Module]:
        return of_kind(self, ResnetBlock2D, Transformer2DModel, CLIPEncoderLayer, IPAdapterPlusImageProjectionBlock)

    def param_groups(self) -> list[ParamGroup]:
        new = {id(p): p for module in self.network.new_layers() for p in module.parameters()}
        base = [p for p in self.parameters() if p.requires_grad and id(p) not in new]
        return [
            ParamGroup("base", base),
            ParamGroup("new", list(new.values()), self.config.new_layer_lr_scale),
        ]

    def conditions(self, batch: dict[str, Tensor]) -> Conditions:
        """What a batch tells the network; condition latents carry the noise that their labels announce."""
        pictures, level = batch["conditions"], batch["noise_level"]
        latents = self._encode(pictures)
        noise = keyed.normal(batch["key"], tuple(latents.shape[1:]), "condition noise")
        noisy = self.schedule.add_noise(latents.flatten(0, 1), noise.flatten(0, 1), level.flatten()).view_as(latents)
        latents = torch.where(level[..., None, None, None] > 0, noisy, latents)
        return Conditions(batch["ids"], latents, self.network.features(pictures), batch["present"], batch["code"])

    def sample(self, batch: dict[str, Tensor], conditions: Conditions) -> Tensor:
        """Novel views at the batch's target poses, (B, T, 3, H, W) in [-1, 1]."""
        side = self.config.size // self.config.codec.factor
        shape = (batch["targets"].shape[1], self.config.codec.channels, side, side)
        noise = keyed.normal(batch["key"], shape, "sample")
        latents = sample_targets(self.network, self.schedule, conditions, self.null_ids(), noise, self.config.sampling)
        return self.codec.decode(latents.flatten(0, 1)).unflatten(0, latents.shape[:2]).clamp(-1, 1)

    def null_ids(self) -> Tensor:
        """The caption of an object without one, (L,)."""
        return torch.from_numpy(tokenizer(self.config.text)("")).to(self.device)

    def _losses(self, batch: dict[str, Tensor], conditions: Conditions) -> Tensor:
        """(B,): the mean over an object's target frames; every target has a timestep and noise of its own."""
        latents = self._encode(batch["targets"])
        objects, targets = latents.shape[:2]
        keys = (batch["key"][:, None] + torch.arange(targets, device=self.device)).flatten()
        noise, t = self.schedule.draw(keys, tuple(latents.shape[2:]))
        clean = latents.flatten(0, 1)
        noisy = self.schedule.add_noise(clean, noise, t).view_as(latents)
        answer = self.network(noisy, t.view(objects, targets), conditions, self.network.context(conditions))
        return self.schedule.loss(answer.flatten(0, 1), clean, noise, t).view(objects, targets).mean(dim=1)

    def _encode(self, pictures: Tensor) -> Tensor:
        """(B, V, 3, H, W) -> latents (B, V, c, h, w)."""
        return self.codec.encode(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])
