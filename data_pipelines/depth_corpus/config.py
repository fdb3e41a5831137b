"""The keys of `vstrain data depth_corpus`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from data_pipelines.executors import Execution
from vstrain.config.schema import NonNegativeInt, PositiveFloat, PositiveInt, Probability


class Config(Execution):
    source: str  # a folder, a .csv/.tsv/.jsonl manifest, or a folder written by datasets' save_to_disk
    out: str | None  # where the shards go; null: data/<name of the source>
    overwrite: bool  # replace the data set that is in `out`, if it is complete or of other input or keys

    # pairing
    image_pattern: str | None  # globs below a source folder; what the wildcards match must agree. null: by known names
    depth_pattern: str | None
    mask_pattern: str | None
    image_column: str | None  # columns of a manifest or a saved data set; null: by known names
    depth_column: str | None
    mask_column: str | None

    # values
    unit: Literal["depth", "disparity"]
    depth_scale: PositiveFloat  # stored number x depth_scale = metres (unit=depth) or disparity
    invalid: list[float]  # stored numbers that mean "nothing measured", besides those that are <= 0 or not finite
    far: PositiveFloat | None  # unit=depth: farther than this many metres is invalid (a renderer's sky)
    min_valid: Probability  # smallest share of valid pixels
    mask: Literal["use", "ignore"]
    mask_valid: Literal["nonzero", "zero"]  # which mask values mark valid pixels

    # pictures
    exif: Literal["auto", "apply", "ignore"]  # auto: turn a photo unless only the unturned one fits its depth
    resize: Literal["off", "depth", "image"]  # which of the two to resize when they differ in resolution
    max_side: PositiveInt | None  # shrink so that the longer side has at most this many pixels
    image_format: Literal["jpg", "png", "webp"]  # png and webp are lossless
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    look: str  # written into every sample: real, synthetic, ...

    # the data set
    val_fraction: Annotated[float, Field(ge=0, lt=1)]
    split_by: Literal["sample", "folder"]  # folder: frames of one folder never stand on both sides
    limit: PositiveInt | None  # a random choice of this many samples
    seed: NonNegativeInt  # keys the split, the order and the choice
    shard_samples: (
        PositiveInt | None
    )  # inputs a shard; null: 1000, fewer in a small data set so that all cores have work
    shard_bytes: PositiveInt  # a shard that grows beyond this goes on in a further file

    @model_validator(mode="after")
    def _patterns(self) -> Config:
        given = [p for p in (self.image_pattern, self.depth_pattern, self.mask_pattern) if p is not None]
        if given and (self.image_pattern is None or self.depth_pattern is None):
            raise ValueError("image_pattern and depth_pattern must be given together")
        if len({pattern.replace("**/", "*").count("*") for pattern in given}) > 1:
            raise ValueError(f"the patterns {', '.join(given)} must have the same number of wildcards")
        if self.far is not None and self.unit == "disparity":
            raise ValueError("far is in metres and needs unit=depth")
        return self
