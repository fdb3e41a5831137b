"""What is dropped of a clip's condition, for guidance. A pure tensor function."""

from __future__ import annotations

from torch import Tensor

from vstrain.data import keyed


def dropped(keys: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """text, image (B,) bool: True where that condition is hidden. One uniform draw a clip: `share` of the
    clips lose the text alone, as many both, as many the images alone (DynamiCrafter, IP-Adapter)."""
    draw = keyed.uniform(keys, "drop")
    return draw < 2 * share, (draw >= share) & (draw < 3 * share)
