"""Depth Anything's teacher: disparity from one picture, trained on labelled depth."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vstrain.interop.depth_anything import load_encoder
from vstrain.nn import augment
from vstrain.system import Objective, ParamGroup
from vstrain.system import System as BaseSystem
from vstrain.systems.depth.metrics import depth_scores, fit_disparity
from vstrain.systems.depth.network import build_network
from vstrain.systems.depth.objective import depth_loss
from vstrain.systems.depth.pictures import comparison


class System(BaseSystem):
    """`batch` holds what `prepare` documents: image, disparity, valid, span."""

    def build(self) -> None:
        c = self.config
        self.net = build_network(c.size, c.version, c.pos_embed, c.max_depth)
        if c.init != "random" and self.net.device.type != "meta":
            load_encoder(self.net.backbone, c.init)
        self.net.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        """uint8 RGB (B, H, W, 3), sides multiples of 14, to disparity (B, H, W), >= 0, of free scale and
        shift."""
        return self.disparity(augment.normalise(image))

    def disparity(self, pixels: Tensor) -> Tensor:
        """As `forward`, of normalised pictures float (B, 3, H, W)."""
        return self.net(pixel_values=pixels.contiguous(memory_format=torch.channels_last)).predicted_depth

    def objective(self, batch: dict[str, Tensor]) -> Objective:
        residual, gradient = self._terms(self.disparity(self.training_pixels(batch)), batch)
        loss = residual + self.config.loss.gradient_weight * gradient
        return Objective(loss.mean(), {"residual": residual.mean(), "gradient": gradient.mean()})

    def training_pixels(self, batch: dict[str, Tensor]) -> Tensor:
        """Normalised pictures float (B, 3, H, W), their colours and sharpness changed under config.perturb."""
        c, key = self.config.perturb, batch["key"]
        if c is None:
            return augment.normalise(batch["image"])
        pixels = augment.to_float(batch["image"])
        pixels = augment.colour_jitter(pixels, key, c.brightness, c.contrast, c.saturation, c.hue, c.jitter)
        return augment.normalise(augment.gaussian_blur(pixels, key, c.sigma, c.blur))

    def evaluate(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """loss, loss_shuffled (what the prediction of another picture costs), abs_rel and delta1 (see
        metrics)."""
        prediction = self(batch["image"]).float()
        weight = self.config.loss.gradient_weight
        residual, gradient = self._terms(prediction, batch)
        shuffled, shuffled_gradient = self._terms(prediction.roll(1, 0), batch)
        fit = fit_disparity(prediction, batch["disparity"], batch["span"], batch["valid"], self.config.depth_cap)
        return {
            "loss": residual + weight * gradient,
            "loss_shuffled": shuffled + weight * shuffled_gradient,
            **depth_scores(*fit),
        }

    def pictures(self, batch: dict[str, Tensor]) -> dict[str, np.ndarray]:
        rows = {name: batch[name][: self.config.pictures] for name in ("image", "disparity", "valid", "span")}
        return {"depth": comparison(rows, self(rows["image"]).float(), self.config.depth_cap)}

    def param_groups(self) -> list[ParamGroup]:
        def trainable(module: torch.nn.Module) -> list[torch.nn.Parameter]:
            return [p for p in module.parameters() if p.requires_grad]

        head = trainable(self.net.neck) + trainable(self.net.head)
        encoder = trainable(self.net.backbone)
        return [ParamGroup("encoder", encoder), ParamGroup("head", head, lr_scale=self.config.head_lr_scale)]

    def _terms(self, prediction: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        loss = self.config.loss
        return depth_loss(prediction, batch["disparity"], batch["valid"], loss.align, loss.rho)
