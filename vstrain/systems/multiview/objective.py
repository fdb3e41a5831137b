"""What a step trains on: which conditions an object loses, and the loss. Pure tensor functions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vstrain.systems.multiview.cameras import DISTORT_LABEL, NOISE_LABEL
from vstrain.systems.multiview.config import Dropout


@dataclass(frozen=True)
class Conditions:
    """All that the network is told about B objects, before its trained encoders."""

    ids: Tensor  # (B, L) int64, the caption
    latents: Tensor  # (B, C, c, h, w)
    features: Tensor  # (B, V, P, D) of the frozen picture encoder; V is 1 (view 0 speaks for all) or C
    present: Tensor  # (B, C) bool
    code: Tensor  # (B, T + C, 10)

    @property
    def targets(self) -> int:
        return self.code.shape[1] - self.latents.shape[1]

    def map(self, change) -> Conditions:
        """`change` applied to every tensor."""
        return Conditions(**{name: change(value) for name, value in vars(self).items()})


def concatenate(first: Conditions, second: Conditions) -> Conditions:
    return Conditions(**{name: torch.cat([value, getattr(second, name)]) for name, value in vars(first).items()})


def null(conditions: Conditions, everything: Tensor, text: Tensor, pictures: Tensor, null_ids: Tensor) -> Conditions:
    """Take conditions away from some objects (spec section 4.4). everything, text, pictures: (B,) bool,
    True takes away:

    text        ids become `null_ids` (L,)
    pictures    features become zero
    everything  both, and latents and labels of all views become zero; pose codes stay
    """
    text, pictures = text | everything, pictures | everything
    keep_labels = torch.ones_like(conditions.code)
    keep_labels[..., [NOISE_LABEL, DISTORT_LABEL]] = (~everything).to(keep_labels)[:, None, None]
    return replace(
        conditions,
        ids=torch.where(text[:, None], null_ids, conditions.ids),
        features=conditions.features * (~pictures)[:, None, None, None],
        latents=conditions.latents * (~everything)[:, None, None, None, None],
        code=conditions.code * keep_labels,
    )


def draw_null(u: Tensor, shares: Dropout) -> tuple[Tensor, Tensor, Tensor]:
    """Uniform u (B,) -> (everything, text, pictures), (B,) bool, at most one of them True for an object."""
    first, second = shares.everything, shares.everything + shares.text
    return u < first, (u >= first) & (u < second), (u >= second) & (u < second + shares.pictures)


def nothing(conditions: Conditions, null_ids: Tensor) -> Conditions:
    """The unconditional side of guidance: everything taken from every object."""
    all_of_them = torch.ones_like(conditions.present[:, 0])
    return null(conditions, all_of_them, all_of_them, all_of_them, null_ids)


def shuffled(conditions: Conditions) -> Conditions:
    """Every object is told what belongs to the next one of the batch."""
    return conditions.map(lambda value: value.roll(1, dims=0))


def wrong_pose(conditions: Conditions) -> Conditions:
    """Every object keeps its views and is asked for them from the next object's target cameras."""
    code = conditions.code.clone()
    code[:, : conditions.targets] = code[:, : conditions.targets].roll(1, dims=0)
    return replace(conditions, code=code)
