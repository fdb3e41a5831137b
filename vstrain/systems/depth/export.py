"""A trained network in the layouts that other libraries open."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

from vstrain.interop.depth_anything import read_state, to_official
from vstrain.system import System
from vstrain.systems.depth.config import PATCH


def export(system: System, out: Path) -> list[Path]:
    """Writes into `out`
        config.json, model.safetensors, preprocessor_config.json
            open with transformers' AutoModelForDepthEstimation and AutoImageProcessor .from_pretrained(out)
        depth_anything_VERSION_SIZE.pth
            the bare state dict that the official Depth Anything code loads; its name says which network it
            belongs to
    transformers resamples positions by its own rule: it gives what this network gives at the position table's
    own size (518 x 518 for vits to vitg), and something slightly else at other sizes where
    system.pos_embed=official."""
    config = system.config
    paths = [out / name for name in ("config.json", "model.safetensors", "preprocessor_config.json")]
    system.net.save_pretrained(out)
    DPTImageProcessorPil(
        size={"height": config.image_size, "width": config.image_size},
        keep_aspect_ratio=True,
        ensure_multiple_of=PATCH,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(out)
    official = out / f"depth_anything_{config.version}_{config.size}.pth"
    torch.save(to_official(read_state(out)), official)
    return [*paths, official]
