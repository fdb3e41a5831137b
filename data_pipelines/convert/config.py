"""The keys of `vstrain data convert`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from data_pipelines.executors import Execution
from vstrain.config.problems import nearest
from vstrain.config.strict import NonNegativeInt, PositiveInt
from vstrain.data.kinds import KINDS


class Config(Execution):
    source: str | list[str]  # a folder, a .parquet file, addresses of .tar shards, or a name on the Hugging Face hub
    streaming: bool  # source is a data set that `datasets` streams: a name on the hub, or a folder that it can load
    subset: str | None  # which configuration of a streamed data set
    out: str | None  # where the shards go; null: data/<name of the source>
    overwrite: bool  # replace the data set that is in `out`, if it is complete or of other input or keys

    kind: str  # what a sample is: a key of vstrain.data.kinds.KINDS
    # member -> column; for json also a list of columns. Empty: of shards, the members that the kind has
    columns: dict[str, str | list[str]]
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]  # of pictures that must be encoded anew

    # the data set
    val_fraction: Annotated[float, Field(ge=0, lt=1)]  # of a source that names no splits
    limit: PositiveInt | None  # the first so many rows, of each split where the source names splits
    seed: NonNegativeInt  # keys the split
    shard_samples: (
        PositiveInt | None
    )  # inputs a shard; null: 1000, fewer in a small data set so that all cores have work
    shard_bytes: PositiveInt  # a shard that grows beyond this goes on in a further file

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in KINDS:
            raise ValueError(f"no kind {kind!r}; {nearest(kind, KINDS)}")
        return kind

    @property
    def sources(self) -> list[str]:
        return [self.source] if isinstance(self.source, str) else self.source
