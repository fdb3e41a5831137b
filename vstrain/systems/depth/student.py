"""What a student sees and is taught (depth spec, 3 to 5): perturbed pictures, boxes of other pictures, a teacher's labels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vstrain.config.problems import InputError
from vstrain.nn import augment
from vstrain.nn.frozen import Frozen
from vstrain.systems.depth.config import Alignment, Perturb, Student
from vstrain.systems.depth.network import SIZES, build_network
from vstrain.systems.depth.weights import fill, load_network, read_network


class View(NamedTuple):
    """pixels: normalised float (B, 3, H, W). box: bool (B, H, W), where another picture of the batch was put in; other:
    (B,), the row it is from. Both None without CutMix."""

    pixels: Tensor
    box: Tensor | None = None
    other: Tensor | None = None


def view(config: Perturb | None, batch: dict[str, Tensor]) -> View:
    """The pictures of a training batch as the network sees them: colours and sharpness changed, then mixed."""
    if config is None:
        return View(augment.normalise(batch["image"]))
    pixels, key = augment.to_float(batch["image"]), batch["key"]
    chosen = batch["pseudo"] if config.which == "pseudo" else torch.ones_like(batch["pseudo"])
    changed = augment.colour_jitter(
        pixels, key, config.brightness, config.contrast, config.saturation, config.hue, config.jitter
    )
    changed = augment.gaussian_blur(changed, key, config.sigma, config.blur)
    pixels = augment.normalise(torch.where(chosen[:, None, None, None], changed, pixels))
    if config.cutmix == 0:
        return View(pixels)
    other = partners(chosen)
    size = pixels.shape[-2:]
    box = augment.cutmix_boxes(key, *size, config.area, config.aspect, config.cutmix)
    box = box & (other != torch.arange(len(other), device=other.device))[:, None, None]
    return View(torch.where(box[:, None], pixels[other], pixels), box, other)


def partners(chosen: Tensor) -> Tensor:
    """The row (B,) that each chosen row exchanges boxes with: the first with the second, the third with the fourth, …; a
    row that is not chosen, and the last of an odd number, has itself. Neighbours, so that pairs do not depend on how
    a global batch is cut into micro-batches of an even number of chosen rows."""
    rows = torch.arange(len(chosen), device=chosen.device)
    order = torch.argsort((~chosen).to(torch.uint8), stable=True)  # chosen rows first
    rank = torch.cumsum(chosen, 0) - 1
    mate = rank ^ 1
    paired = chosen & (mate < chosen.sum())
    return torch.where(paired, order[mate.clamp(0, len(chosen) - 1)], rows)


def check_ratio(config: Student, pseudo: Tensor) -> None:
    """Every micro-batch holds the configured share of labelled samples: then means over ranks and micro-batches are the
    means over the global batch."""
    if torch._subclasses.fake_tensor.is_fake(pseudo):
        return
    wanted, count = config.ratio, int(pseudo.sum())
    if count * sum(wanted) != len(pseudo) * wanted[1]:
        raise InputError(
            f"system.student.ratio={list(wanted)}: this micro-batch has {len(pseudo) - count} labelled and {count} "
            "pseudo-labelled samples; give data.train.sources these weights, and make data.batch_size / (trainer.accumulate x "
            f"ranks) a multiple of {sum(wanted)}"
        )


def row_weights(config: Student, pseudo: Tensor) -> Tensor:
    """(B,) float: the mean over rows of weight x loss is labelled_weight x the labelled mean + pseudo_weight x the other."""
    labelled, share = config.ratio, sum(config.ratio)
    weights = (config.labelled_weight * share / max(labelled[0], 1), config.pseudo_weight * share / labelled[1])
    return torch.where(pseudo, weights[1], weights[0])


@torch.no_grad()
def taught(teacher: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """`batch` with the teacher's disparity as the target of its pseudo-labelled rows. The teacher sees the clean picture,
    not mirrored, in float32."""
    pseudo = batch["pseudo"]
    flip = batch["flipped"][:, None, None]
    image = torch.where(flip[..., None], batch["image"].flip(2), batch["image"])
    with torch.autocast(image.device.type, enabled=False):
        disparity = teacher(pixel_values=augment.normalise(image)).predicted_depth.float()
    disparity = torch.where(flip, disparity.flip(2), disparity)
    low, high = disparity.flatten(1).aminmax(dim=1)
    unit = (disparity - low[:, None, None]) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)[:, None, None]
    chosen = pseudo[:, None, None]
    return batch | {
        "disparity": torch.where(chosen, unit, batch["disparity"]),
        "valid": batch["valid"] | chosen,
        "span": torch.where(pseudo[:, None], torch.stack((low, high), 1), batch["span"]),
    }


def reference_encoder(config: Alignment, pos_embed: str) -> Frozen:
    """The frozen encoder that features are aligned to."""
    net = build_network(config.size, "v2", pos_embed)
    if config.init != "random" and net.device.type != "meta":
        load_network(net, config.init, "system.student.alignment.init", encoder_only=True)
    return Frozen(net.backbone)


def frozen_teacher(path: str) -> Frozen | None:
    """The network that labels while the student trains, as its own file says it is; None without storage (`vstrain plan`)."""
    if torch.get_default_device().type == "meta":
        return None
    key = "system.student.teacher"
    network = read_network(path, key)
    facts = network.facts
    if facts.output != "relative":
        raise InputError(f"{key}={path}: it predicts metres; a student learns from a relative model's disparity")
    net = build_network(facts.size, facts.version, facts.pos_embed)
    fill(net, network.state, f"{key}={path}")
    return Frozen(net)


def projection(size: str, config: Alignment) -> nn.Module:
    """Student features to the width of the reference; nothing where they have it."""
    student, reference = SIZES[size].dim, SIZES[config.size].dim
    return nn.Identity() if student == reference else nn.Linear(student, reference)


def patch_tokens(backbone: nn.Module, pixels: Tensor) -> Tensor:
    """(B, N, D): the last block's patch tokens after the final norm."""
    return backbone(pixels).feature_maps[-1][:, 1:]
