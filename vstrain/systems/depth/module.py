"""Depth Anything: depth from one picture, learned from true labels, a teacher's, or both."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from transformers.models.dinov2.modeling_dinov2 import Dinov2Layer

from vstrain.nn import augment
from vstrain.nn.attention import in_transformers
from vstrain.nn.blocks import of_kind
from vstrain.system import Objective, ParamGroup
from vstrain.system import System as BaseSystem
from vstrain.systems.depth import student
from vstrain.systems.depth.metrics import depth_scores, fit_disparity, truth_disparity
from vstrain.systems.depth.network import build_network
from vstrain.systems.depth.objective import alignment_loss, cutmix_loss, depth_loss, silog_loss
from vstrain.systems.depth.pictures import comparison
from vstrain.systems.depth.weights import load_network

Batch = dict[str, Tensor]


class System(BaseSystem):
    """`batch` holds what `prepare` documents: image, disparity, valid, span, pseudo, flipped, and focal with a camera."""

    def build(self) -> None:
        c, teaching = self.config, self.config.student
        self.net = build_network(c.size, c.version, c.pos_embed, c.max_depth)
        meta = self.net.device.type == "meta"
        if c.init != "random" and self.trains and not meta:
            load_network(self.net, c.init, "system.init", encoder_only=c.init_parts == "encoder")
        self.net.backbone.set_attn_implementation(in_transformers(c.attention))
        self.net.to(memory_format=torch.channels_last)
        self.teacher = self.reference = None
        if teaching and teaching.alignment:
            self.project = student.projection(c.size, teaching.alignment)
            if self.trains:
                self.reference = student.reference_encoder(teaching.alignment, c.pos_embed)
        if teaching and teaching.teacher and self.trains:
            self.teacher = student.frozen_teacher(teaching.teacher)

    def forward(self, image: Tensor, focal: Tensor | None = None) -> Tensor:
        """uint8 RGB (B, H, W, 3), sides multiples of 14, to (B, H, W): disparity, >= 0, of free scale and shift; or, with
        output=metric, metres. focal (B,): focal length in picture heights, for a system with a camera."""
        return self._metres(self.disparity(augment.normalise(image)), focal)

    def disparity(self, pixels: Tensor) -> Tensor:
        """As `forward`, of normalised pictures float (B, 3, H, W), by the camera that metres are learned for."""
        return self.net(pixel_values=pixels.contiguous(memory_format=torch.channels_last)).predicted_depth

    def objective(self, batch: Batch) -> Objective:
        teaching = self.config.student
        if self.teacher is not None:
            batch = student.taught(self.teacher, batch)
        if teaching:
            student.check_ratio(teaching, batch["pseudo"])
        view = student.view(self.config.perturb, batch)
        prediction, tokens = self._predict(view.pixels, batch.get("focal"))
        terms = self._terms(prediction, batch, view)
        cost = self._cost(terms)
        metrics = {name: term.mean() for name, term in terms.items()}
        if teaching is None:
            return Objective(cost.mean(), metrics)
        pseudo = batch["pseudo"]
        loss = (cost * student.row_weights(teaching, pseudo)).mean()
        metrics["pseudo"] = (cost * pseudo).sum() / pseudo.sum().clamp_min(1)
        metrics["labelled"] = (cost * ~pseudo).sum() / (~pseudo).sum().clamp_min(1)
        if self.reference is not None:
            feature = self._alignment(view.pixels, tokens, pseudo)
            metrics["feature"] = feature
            loss = loss + teaching.alignment.weight * feature
        return Objective(loss, metrics)

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """loss, loss_shuffled (what the prediction of another picture costs), abs_rel and delta1 (see
        metrics)."""
        prediction = self(batch["image"], batch.get("focal")).float()
        return {
            "loss": self._cost(self._terms(prediction, batch)),
            "loss_shuffled": self._cost(self._terms(prediction.roll(1, 0), batch)),
            **depth_scores(*self.fitted(prediction, batch)),
        }

    def fitted(self, prediction: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(disparity, true disparity, counted), (B, H, W) each, as scores compare them: a relative prediction is fitted to
        the truth, a metric one is taken as it is."""
        truth, cap = (batch["disparity"], batch["span"], batch["valid"]), self.config.depth_cap
        if self.config.output == "relative":
            return fit_disparity(prediction, *truth, cap)
        disparity, counted = truth_disparity(*truth, cap)
        return 1 / prediction.double().clamp(1e-3, cap), disparity, counted

    def pictures(self, batch: Batch) -> dict[str, np.ndarray]:
        rows = {name: value[: self.config.pictures] for name, value in batch.items() if torch.is_tensor(value)}
        prediction = self(rows["image"], rows.get("focal")).float()
        return {"depth": comparison(rows, *self.fitted(prediction, rows)[:2])}

    def blocks(self) -> list[torch.nn.Module]:
        helpers = [frozen.net for frozen in (self.reference, self.teacher) if frozen is not None]
        return [block for net in (self.net, *helpers) for block in of_kind(net, Dinov2Layer)]

    def param_groups(self) -> list[ParamGroup]:
        def trainable(module: torch.nn.Module) -> list[torch.nn.Parameter]:
            return [p for p in module.parameters() if p.requires_grad]

        encoder = trainable(self.net.backbone)
        inside = {id(parameter) for parameter in encoder}
        rest = [parameter for parameter in trainable(self) if id(parameter) not in inside]
        return [ParamGroup("encoder", encoder), ParamGroup("head", rest, lr_scale=self.config.head_lr_scale)]

    def _predict(self, pixels: Tensor, focal: Tensor | None) -> tuple[Tensor, Tensor]:
        """(prediction as `forward` gives it, patch tokens of the last block)."""
        height, width = pixels.shape[-2:]
        grid = height // self.net.config.patch_size, width // self.net.config.patch_size
        features = self.net.backbone(pixels.contiguous(memory_format=torch.channels_last)).feature_maps
        return self._metres(self.net.head(self.net.neck(features, *grid), *grid), focal), features[-1][:, 1:]

    def _metres(self, prediction: Tensor, focal: Tensor | None) -> Tensor:
        if self.config.camera is None:
            return prediction
        return prediction * (focal / self.config.camera)[:, None, None]

    def _terms(self, prediction: Tensor, batch: Batch, view: student.View | None = None) -> dict[str, Tensor]:
        loss, target = self.config.loss, (batch["disparity"], batch["valid"])
        if self.config.output == "metric":
            disparity, near = truth_disparity(batch["disparity"], batch["span"], batch["valid"], self.config.max_depth)
            return {"silog": silog_loss(prediction, 1 / disparity.float(), near, loss.silog_lambda)}
        drop = loss.drop * batch["pseudo"] if loss.drop else None
        if view is not None and view.box is not None:
            other = tuple(x[view.other] for x in target)
            terms = cutmix_loss(prediction, *target, other, view.box, loss.align, loss.rho, drop)
        else:
            terms = depth_loss(prediction, *target, loss.align, loss.rho, drop)
        return dict(zip(("residual", "gradient"), terms, strict=True))

    def _cost(self, terms: dict[str, Tensor]) -> Tensor:
        if "silog" in terms:
            return terms["silog"]
        return terms["residual"] + self.config.loss.gradient_weight * terms["gradient"]

    def _alignment(self, pixels: Tensor, tokens: Tensor, pseudo: Tensor) -> Tensor:
        """The mean over pseudo-labelled rows."""
        with torch.no_grad():
            reference = student.patch_tokens(self.reference.net, pixels)
        cost = alignment_loss(self.project(tokens), reference, self.config.student.alignment.margin)
        return (cost * pseudo).sum() / pseudo.sum().clamp_min(1)
