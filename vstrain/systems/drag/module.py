"""The drag editor: source, mask and handle -> target points to the frame after."""

from __future__ import annotations

import numpy as np
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from vstrain.data import keyed
from vstrain.diffusion.schedule import NoiseSchedule
from vstrain.nn.blocks import of_kind
from vstrain.system import Objective, ParamGroup
from vstrain.system import System as BaseSystem
from vstrain.systems.drag.encoder import LastInput
from vstrain.systems.drag.network import Conditions, DragModel
from vstrain.systems.drag.objective import denoising_loss, kept, to_unit
from vstrain.systems.drag.pictures import comparison
from vstrain.systems.drag.sample import edit


class System(BaseSystem):
    """`batch` holds what `prepare` documents: source, target, mask, maps, handles, targets."""

    def build(self) -> None:
        self.model = DragModel(self.config)
        self.schedule = NoiseSchedule(self.config.diffusion)

    def objective(self, batch: dict[str, Tensor]) -> Objective:
        points = kept(keyed.uniform(batch["key"], "point_drop"), self.config.point_drop)
        image = kept(keyed.uniform(batch["key"], "image_drop"), self.config.image_drop)
        conditions = self.model.conditions(to_unit(batch["source"]), batch["mask"], batch["maps"], points, image)
        return Objective(self._loss(batch, conditions).mean(), {})

    def evaluate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """loss; loss_shuffled, with the points of another sample; point_gain, what leaving the points out
        costs. All three under one noise and timestep."""
        source = to_unit(batch["source"])
        conditions = self.model.conditions(source, batch["mask"], batch["maps"])
        shuffled = self.model.conditions(source, batch["mask"], batch["maps"].roll(1, 0))
        loss = self._loss(batch, conditions)
        return {
            "loss": loss,
            "loss_shuffled": self._loss(batch, shuffled),
            "point_gain": self._loss(batch, conditions.without_points()) - loss,
        }

    def pictures(self, batch: dict[str, Tensor]) -> dict[str, np.ndarray]:
        rows = {
            name: batch[name][: self.config.pictures]
            for name in ("source", "target", "mask", "maps", "handles", "targets")
        }
        seeds = list(range(self.config.sampling.candidates))
        edited = edit(
            self.model, self.schedule, self.config.sampling, rows["source"], rows["mask"], rows["maps"], seeds
        )
        return {"drag": comparison(rows, edited)}

    def blocks(self) -> list[nn.Module]:
        """Without the last one of the encoder, of whose output nothing but the bank is used: gradients do not enter it there."""
        found = of_kind(self, ResnetBlock2D, Transformer2DModel, CLIPEncoderLayer)
        return [block for block in found if not any(isinstance(module, LastInput) for module in block.modules())]

    def param_groups(self) -> list[ParamGroup]:
        """Norms and biases are not decayed."""
        trained = [p for p in self.parameters() if p.requires_grad]
        return [
            ParamGroup("weights", [p for p in trained if p.ndim > 1]),
            ParamGroup("norms", [p for p in trained if p.ndim < 2], weight_decay=0.0),
        ]

    def _loss(self, batch: dict[str, Tensor], conditions: Conditions) -> Tensor:
        """(B,) of the batch's own noise and timesteps."""
        latent = self.model.codec.encode(to_unit(batch["target"]), batch["key"])
        noise, t = self.schedule.draw(batch["key"], tuple(latent.shape[1:]))
        answer = self.model(self.schedule.add_noise(latent, noise, t), t, conditions)
        wanted = self.schedule.target(latent, noise, t)
        mask = conditions.inpaint[:, :1]
        return denoising_loss(answer, wanted, self.schedule.weight(t), mask, self.config.mask_loss_weight)
