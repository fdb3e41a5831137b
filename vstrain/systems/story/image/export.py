"""A trained story image system in the diffusers layout."""

from __future__ import annotations

from pathlib import Path

from vstrain.systems.story.image.module import System


def export(system: System, out: Path) -> list[Path]:
    """out/unet (UNet2DConditionModel), out/scheduler (DDIM with the trained betas), out/text_encoder
    (CLIPTextModel). Consistent self-attention has no weights: any loader of the UNet gets the stock
    attention."""
    parts = {"unet": system.unet, "scheduler": system.schedule.scheduler("ddim"), "text_encoder": system.text.model}
    for name, part in parts.items():
        part.save_pretrained(out / name)
    return [out / name for name in parts]
