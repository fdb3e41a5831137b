"""Random numbers that belong to a sample, not to a process.

Every draw of a run (augmentation, timestep, noise, dropped conditions) comes from a counter-based generator keyed by
(seed, epoch, sample id) and a purpose. So it is the same on any rank, with any number of workers, and after a restart.
"""

from __future__ import annotations

import numpy as np
import xxhash


def draw_key(seed: int, epoch: int, sample_id: int) -> int:
    """One 63-bit key for one sight of one sample."""
    return xxhash.xxh3_64_intdigest(np.array([seed, epoch, sample_id], dtype=np.int64).tobytes()) >> 1


def rng(key: int, purpose: str) -> np.random.Generator:
    """A generator of its own for every (key, purpose): draws for one purpose never shift those of another."""
    return np.random.Generator(np.random.Philox(key=[int(key), xxhash.xxh3_64_intdigest(purpose.encode())]))


def normal(keys, shape: tuple[int, ...], purpose: str):
    """Standard normal torch tensor (B, *shape), float32, on the device of `keys` (B,) int64; row b depends on keys[b] alone."""
    return _rows(keys, shape, lambda key: rng(key, purpose).standard_normal(shape, dtype=np.float32))


def uniform(keys, purpose: str, shape: tuple[int, ...] = ()):
    """Uniform [0, 1) torch tensor (B, *shape), float32, keyed as `normal`."""
    return _rows(keys, shape, lambda key: rng(key, purpose).random(shape, dtype=np.float32))


def integers(keys, low: int, high: int, purpose: str):
    """Integers in [low, high), torch int64 (B,), keyed as `normal`."""
    return _rows(keys, (), lambda key: rng(key, purpose).integers(low, high))


def _rows(keys, shape: tuple[int, ...], draw):
    """One row a key, stacked. Keys without values (`vstrain plan`) give a tensor without values."""
    import torch

    if keys.device.type == "meta" or torch._subclasses.fake_tensor.is_fake(keys):
        dtype = torch.from_numpy(np.asarray(draw(0))).dtype
        return torch.empty((len(keys), *shape), dtype=dtype, device=keys.device)
    return torch.from_numpy(np.stack([np.asarray(draw(key)) for key in keys.tolist()])).to(keys.device)
