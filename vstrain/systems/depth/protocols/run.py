"""One evaluation by a protocol, from the list of images to the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vstrain.config.problems import InputError
from vstrain.system import Report
from vstrain.systems.depth.protocols import dense, ordinal, summary
from vstrain.systems.depth.protocols.config import DepthProtocol, Protocol
from vstrain.systems.depth.protocols.listing import digest, find

VERSION = 1  # of the protocols; raised whenever the same model on the same files gives another number


def evaluate(system, options: Protocol, samples: int | None, out: Path, progress: Callable[[int, int], None]) -> Report:
    listing = find(options)
    chosen = listing.samples[:samples]
    metric = system.config.output == "metric"
    if isinstance(options, DepthProtocol):
        rows, empty, picture = dense.evaluate(system, options, chosen, progress)
        how, counted, pooled = dense.describe(options, metric), "pixels", False
    else:
        rows, empty, picture = ordinal.evaluate(system, options, chosen, progress)
        how, counted, pooled = ordinal.describe(metric), "pairs", True
    if system.config.camera is not None:
        how += f" | every picture's field of view {system.config.predict.fov:g} degrees (system.predict.fov)"
    if not rows:
        raise InputError(
            f"root={options.root}: none of {len(chosen)} images has anything to score with these options ({how}); "
            "check the cap, the crop and the unit of the depth"
        )
    means = summary.summarise(rows, pooled, options.resamples)
    summary.write_csv(out / "images.csv", rows, counted)
    warnings = warnings_of(options, len(chosen), len(listing.samples), empty)
    keys = digest([sample.key for sample in chosen])
    head = [
        f"{options.name} (protocols version {VERSION}): {len(chosen)} images",
        f"{how} | split {listing.split} | list {keys}",
    ]
    text = "\n".join([*head, "", summary.table(means, counted), *(f"warning: {warning}" for warning in warnings)])
    facts = {
        "version": VERSION,
        "how": how,
        "split": listing.split,
        "images": len(chosen),
        "list": keys,
        "not_scored": empty,
        "warnings": warnings,
    }
    return Report(summary.flat(means), text, {f"{options.name}_best_and_worst": picture}, facts)


def warnings_of(options: Protocol, chosen: int, listed: int, empty: list[str]) -> list[str]:
    """What stands between these numbers and published ones."""
    warnings = []
    if chosen < listed:
        warnings.append(f"the first {chosen} of {listed} images only (samples={chosen})")
    if options.published is not None and chosen != options.published:
        warnings.append(f"{chosen} images, published scores are over {options.published}: do not compare")
    if empty:
        warnings.append(f"{len(empty)} images have nothing to score and are left out, such as {empty[0]}")
    return warnings
