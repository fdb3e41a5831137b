"""Keys of the blocks that systems share. Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from vstrain.config.strict import PositiveInt, Strict


class Text(Strict):
    """A text encoder (see vstrain.nn.text): `tiny` is trained along, `clip` is read from disk and frozen."""

    name: Literal["tiny", "clip"]
    path: str | None  # clip: folder with tokenizer and text model in the transformers layout
    length: PositiveInt  # tokens of one text, padding included
    vocab: PositiveInt
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt

    @model_validator(mode="after")
    def _heads_divide(self):
        if self.width % self.heads:
            raise ValueError(f"text.heads={self.heads} does not divide text.width={self.width}")
        return self


class Vision(Strict):
    """A frozen image encoder (see vstrain.nn.vision): `clip` is read from disk, `random` stands in for it."""

    name: Literal["random", "clip"]
    path: str | None  # clip: folder with a vision model in the transformers layout
    size: PositiveInt  # pixels of a side; pictures are resized to it
    patch: PositiveInt
    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt

    @model_validator(mode="after")
    def _fits(self):
        if self.size % self.patch or self.width % self.heads:
            raise ValueError(
                f"vision.patch={self.patch} must divide vision.size={self.size}, and"
                f" vision.heads={self.heads} must divide vision.width={self.width}"
            )
        return self
