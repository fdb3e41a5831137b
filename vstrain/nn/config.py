"""Keys of the blocks that systems share. Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from vstrain.config.schema import PositiveInt, Strict


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
