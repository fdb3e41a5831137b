"""Keys that both story systems have. Torch-free."""

from __future__ import annotations

from pydantic import model_validator

from vstrain.config.strict import NonNegativeInt, PositiveFloat, PositiveInt, Probability, Strict


class Unet(Strict):
    """The spatial UNet (diffusers UNet2DConditionModel), level by level from fine to coarse."""

    channels: list[PositiveInt]
    transformers: list[bool]  # which levels have self- and cross-attention; the middle always has
    layers: PositiveInt  # residual blocks of a level
    heads: PositiveInt
    groups: PositiveInt  # of the group norms

    @model_validator(mode="after")
    def _levels_agree(self):
        if len(self.channels) != len(self.transformers):
            raise ValueError(
                f"unet.channels has {len(self.channels)} levels and unet.transformers"
                f" {len(self.transformers)}: give one entry a level"
            )
        for channels in self.channels:
            if channels % self.groups or channels % self.heads:
                raise ValueError(
                    f"unet.channels={channels} must be a multiple of unet.groups={self.groups}"
                    f" and of unet.heads={self.heads}"
                )
        return self

    @property
    def stride(self) -> int:
        """Sides of a latent must be a multiple of this."""
        return 2 ** (len(self.channels) - 1)


class Sampling(Strict):
    """How pictures are drawn."""

    steps: PositiveInt  # of DDIM
    guidance: PositiveFloat  # 1: none
    rescale: Probability  # guidance rescale; 0: none
    shown: NonNegativeInt  # samples of the first validation batch that are shown
