"""Do the captions matter, and do the pictures of one story look alike? Numbers for the end of a run."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from vstrain.system import Report
from vstrain.systems.story.image.module import System

STORIES = 8  # that are sampled for the report
LEVELS = 4  # of each colour channel in a histogram


def colours(images: Tensor) -> Tensor:
    """(..., 3, H, W) in [-1, 1] -> (..., LEVELS^3): the colour histogram of the middle, where the character
    stands."""
    height, width = images.shape[-2:]
    middle = images[..., height // 4 : height - height // 4, width // 3 : width - width // 3]
    level = ((middle + 1) / 2 * LEVELS).long().clamp(0, LEVELS - 1)
    bins = (level[..., 0, :, :] * LEVELS + level[..., 1, :, :]) * LEVELS + level[..., 2, :, :]
    return torch.nn.functional.one_hot(bins.flatten(-2), LEVELS**3).float().mean(dim=-2)


def agreement(stories: Tensor) -> tuple[float, float]:
    """Stories (S, K, 3, H, W) -> mean overlap (0 to 1) of the colours of two pictures of one story, and of
    two pictures of different stories. Only the gap between them speaks of identity: both rise when all
    pictures look alike."""
    histogram = colours(stories)
    count, images = histogram.shape[:2]
    flat = histogram.flatten(0, 1)
    overlap = torch.minimum(flat[:, None], flat[None]).sum(dim=-1)
    story = torch.arange(count, device=flat.device).repeat_interleave(images)
    same = story[:, None] == story[None]
    other_picture = ~torch.eye(count * images, dtype=torch.bool, device=flat.device)
    return overlap[same & other_picture].mean().item(), overlap[~same].mean().item()


@torch.no_grad()
def report(system: System, train_batches: Iterable, val_batches: Iterable[dict[str, Tensor]]) -> Report:
    """Agreement of held-out stories: the data, pictures sampled one by one, and pictures sampled with
    sharing."""
    batch = {name: x[:STORIES].to(system.device) for name, x in next(iter(val_batches)).items()}
    keys, tokens = batch["key"], batch["tokens"]
    pictures = {
        "data": batch["images"].float() / 127.5 - 1,
        "alone": system.draw(keys, tokens, share=False),
        "shared": system.draw(keys, tokens, share=True),
    }
    metrics, lines = (
        {},
        [
            f"colour overlap of the middle of pictures, {len(keys)} held-out stories",
            f"{'':8}{'one story':>11}{'two stories':>13}{'gap':>7}",
        ],
    )
    for name, drawn in pictures.items():
        within, across = agreement(drawn)
        metrics |= {f"{name}/within": within, f"{name}/across": across}
        lines.append(f"{name:8}{within:11.3f}{across:13.3f}{within - across:7.3f}")
    return Report(metrics, "\n".join(lines))
