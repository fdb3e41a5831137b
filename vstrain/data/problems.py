"""What can be wrong with data."""

from __future__ import annotations

from vstrain.config.problems import InputError


class DataError(InputError):
    """Bad shards: which file, what was expected, what to do."""
