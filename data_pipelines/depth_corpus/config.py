"""The keys of `vstrain data depth_corpus`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from data_pipelines.depth_corpus.layouts.layout import Rules
from data_pipelines.depth_corpus.layouts.table import LAYOUTS, OWN, OWN_RULES
from data_pipelines.executors import Execution
from vstrain.config.problems import nearest
from vstrain.config.strict import NonNegativeInt, PositiveFloat, PositiveInt, Probability

RULES = ("unit", "depth_scale", "look", "mask_valid", "mask_above", "sky_values", "sky_far", "focal")  # keys of Rules


class Config(Execution):
    source: str  # a folder, a .csv/.tsv/.jsonl manifest, or a folder written by datasets' save_to_disk
    layout: str  # own: pairing as below; else a public data set as it is downloaded, by its name in layouts/table.py
    train_list: (
        str | None
    )  # with a layout: files that name the pictures or scenes of a part; null: the set's own, if it
    val_list: str | None  # lies in the source. With train_list, pictures that no list names are left out
    out: str | None  # where the shards go; null: data/<name of the source>
    overwrite: bool  # replace the data set that is in `out`, if it is complete or of other input or keys

    # pairing
    image_pattern: str | None  # globs below a source folder; what the wildcards match must agree. null: by known names
    depth_pattern: str | None
    mask_pattern: str | None
    sky_pattern: str | None
    image_column: str | None  # columns of a manifest or a saved data set; null: by known names
    depth_column: str | None
    mask_column: str | None
    sky_column: str | None

    # values; null in the first eight: what the layout says, see layouts/table.py (own: depth, 1.0, real, nonzero, no sky)
    unit: Literal["depth", "disparity"] | None
    depth_scale: PositiveFloat | None  # stored number x depth_scale = metres (unit=depth) or disparity
    look: str | None  # written into every sample: real, synthetic, ...
    mask_valid: Literal["nonzero", "zero"] | None  # which mask values mark valid pixels
    mask_above: Annotated[float, Field(ge=0)] | None  # a mask of confidences: numbers above this are not zero
    sky_values: list[float] | None  # stored numbers that mean sky
    sky_far: PositiveFloat | None  # unit=depth: as many metres and more are a renderer's sky
    focal: PositiveFloat | None  # focal length of the pictures along x, in their pixels
    invalid: list[float]  # stored numbers that mean "nothing measured", besides those that are <= 0 or not finite
    far: PositiveFloat | None  # unit=depth: farther than this many metres, and no sky, is invalid
    min_valid: Probability  # smallest share of valid pixels
    mask: Literal["use", "ignore"]

    # pictures
    exif: Literal["auto", "apply", "ignore"]  # auto: turn a photo unless only the unturned one fits its depth
    resize: Literal["off", "depth", "image"]  # which of the two to resize when they differ in resolution
    max_side: PositiveInt | None  # shrink so that the longer side has at most this many pixels
    image_format: Literal["jpg", "png", "webp"]  # png and webp are lossless
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]

    # the data set
    val_fraction: Annotated[float, Field(ge=0, lt=1)]
    split_by: Literal["sample", "folder"]  # folder: frames of one folder never stand on both sides
    limit: PositiveInt | None  # a random choice of this many samples
    seed: NonNegativeInt  # keys the split, the order and the choice
    shard_samples: (
        PositiveInt | None
    )  # inputs a shard; null: 1000, fewer in a small data set so that all cores have work
    shard_bytes: PositiveInt  # a shard that grows beyond this goes on in a further file

    @field_validator("layout")
    @classmethod
    def _known(cls, layout: str) -> str:
        if layout != OWN and layout not in LAYOUTS:
            raise ValueError(f"no layout {layout!r}; {nearest(layout, [OWN, *LAYOUTS])}")
        return layout

    @model_validator(mode="after")
    def _patterns(self) -> Config:
        patterns = (self.image_pattern, self.depth_pattern, self.mask_pattern, self.sky_pattern)
        given = [p for p in patterns if p is not None]
        if given and (self.image_pattern is None or self.depth_pattern is None):
            raise ValueError("image_pattern and depth_pattern must be given together")
        if len({pattern.replace("**/", "*").count("*") for pattern in given}) > 1:
            raise ValueError(f"the patterns {', '.join(given)} must have the same number of wildcards")
        if given and self.layout != OWN:
            raise ValueError(f"layout={self.layout} knows its files; patterns are for layout={OWN}")
        if self.layout == OWN and (self.train_list or self.val_list):
            raise ValueError("train_list and val_list are for public layouts; give a manifest with a column split")
        for key in ("far", "sky_far"):
            if getattr(self, key) is not None and self.rules.unit == "disparity":
                raise ValueError(f"{key} is in metres and needs unit=depth")
        return self

    @property
    def rules(self) -> Rules:
        """What the numbers mean: the layout's rules, and the keys that say otherwise."""
        rules = OWN_RULES if self.layout == OWN else LAYOUTS[self.layout].rules
        said = {key: getattr(self, key) for key in RULES if getattr(self, key) is not None}
        if "focal" in said:
            said["focal_width"] = None
        return replace(rules, **said)
