"""The keys of `vstrain data pictures`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from data_pipelines.executors import Execution
from data_pipelines.pictures.sets import SETS
from vstrain.config.problems import nearest
from vstrain.config.strict import NonNegativeInt, PositiveInt


class Config(Execution):
    source: str | list[str]  # folders and files: pictures, .tar, .parquet, LMDB
    layout: str  # own: every picture; else a public set as it is downloaded, by its name in sets.py
    column: str | None  # of parquet files, that holds encoded pictures; null: the only one that can
    out: str | None  # where the shards go; null: data/<name of the source>
    overwrite: bool  # replace the data set that is in `out`, if it is complete or of other input or keys

    # what is left out
    min_side: PositiveInt  # pixels of the shorter side, before any shrinking
    max_aspect: Annotated[float, Field(ge=1)]  # longer side over shorter
    min_contrast: Annotated[
        float, Field(ge=0)
    ]  # standard deviation of the grey levels 0..255 of the picture at 32 x 32
    duplicate_bits: (
        Annotated[int, Field(ge=0, le=8)] | None
    )  # of 64: as near as this is a duplicate; null: keep them all

    # pictures
    max_side: (
        PositiveInt | None
    )  # shrink so that the longer side has at most this many pixels; null: bytes stay as they are
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]  # of pictures that must be encoded anew
    look: str  # written into every sample: real, synthetic, ...

    # the data set
    limit: PositiveInt | None  # a random choice of this many pictures, made before anything is read
    seed: NonNegativeInt  # keys the order and the choice
    shard_samples: (
        PositiveInt | None
    )  # inputs a shard; null: 1000, fewer in a small data set so that all cores have work
    shard_bytes: PositiveInt  # a shard that grows beyond this goes on in a further file

    @field_validator("layout")
    @classmethod
    def _known(cls, layout: str) -> str:
        if layout not in SETS:
            raise ValueError(f"no layout {layout!r}; {nearest(layout, SETS)}")
        return layout

    @property
    def sources(self) -> list[str]:
        return [self.source] if isinstance(self.source, str) else self.source
