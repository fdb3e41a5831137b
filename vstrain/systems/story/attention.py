"""Consistent self-attention: images of one story read each other's tokens (arXiv 2405.01434, section 3.1).

    KV_i = concat(x_i, {x_j[A_j] : j != i, i may read j})
    O_i = softmax(Q_i K_i^T / sqrt(d)) V_i            no new weights

Three pieces: `token_sets` chooses A_j, `consistent_attention` is the formula, `install` puts it on layers of
a model. Images come in groups that never mix: the stories of a batch, times the halves of guidance.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

import numpy as np
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from vstrain.config.problems import InputError
from vstrain.data import keyed
from vstrain.nn.attention import Impl, attention, require

Sampler = Literal["fixed", "bernoulli"]


class TokenSets(NamedTuple):
    """A_j of every image j: which of its tokens the others may read."""

    index: Tensor  # (G, B, K) int64
    valid: Tensor | None  # (G, B, K) bool, False where `index` is padding; None: all are valid


def token_sets(sampler: Sampler, keys: Tensor, images: int, tokens: int, rate: float, step: int) -> TokenSets:
    """Sets for stories `keys` (G,) of `images` images. Each depends on (key, step, tokens, image) alone: not
    on the order of layers, nor on what else is in the batch. `fixed` takes exactly round(rate * tokens)
    tokens without replacement; `bernoulli` takes each token with probability `rate`."""
    chosen = [
        _choose(sampler, keyed.rng(key, f"csa/{step}/{tokens}/{image}"), tokens, rate)
        for key in keys.tolist()
        for image in range(images)
    ]
    longest = max(len(row) for row in chosen)
    index = np.zeros((len(chosen), longest), dtype=np.int64)
    valid = np.zeros((len(chosen), longest), dtype=bool)
    for row, picked in enumerate(chosen):
        index[row, : len(picked)], valid[row, : len(picked)] = picked, True
    shape = (len(keys), images, longest)
    on_device = [torch.from_numpy(x).reshape(shape).to(keys.device) for x in (index, valid)]
    return TokenSets(on_device[0], None if sampler == "fixed" else on_device[1])


def _choose(sampler: Sampler, rng: np.random.Generator, tokens: int, rate: float) -> np.ndarray:
    if sampler == "fixed":
        return rng.permutation(tokens)[: round(rate * tokens)]
    return np.flatnonzero(rng.random(tokens) < rate)


def consistent_attention(
    q: Tensor, k: Tensor, v: Tensor, sets: TokenSets, allow: Tensor | None = None, impl: Impl = "sdpa"
) -> Tensor:
    """q, k, v (G, B, H, N, d): G groups of B images -> (G, B, H, N, d).

    `allow` (B, B) bool: image i may read image j; None: everyone reads everyone. An image always reads all of
    its own tokens, once. With rate 1 this is joint attention over the B * N tokens of a group, with rate 0
    plain attention.
    """
    images, heads, dim = q.shape[1], q.shape[2], q.shape[4]
    if images == 1 or sets.index.shape[-1] == 0:
        return _per_image(q, k, v, None, impl)
    rows = torch.arange(images, device=q.device)
    others = torch.tensor([[j for j in range(images) if j != i] for i in range(images)], device=q.device)  # (B, B - 1)
    token = sets.index[:, :, None, :, None].expand(-1, -1, heads, -1, dim)

    def with_others(x: Tensor) -> Tensor:
        shared = x.gather(3, token)[:, others]  # (G, B, B - 1, H, K, d)
        return torch.cat([x, shared.transpose(2, 3).flatten(3, 4)], dim=3)

    readable = None
    if sets.valid is not None or allow is not None:
        shared = torch.ones_like(sets.index, dtype=torch.bool) if sets.valid is None else sets.valid
        shared = shared[:, others]  # (G, B, B - 1, K)
        if allow is not None:
            shared = shared & allow[rows[:, None], others][None, :, :, None]
        own = shared.new_ones(*q.shape[:2], q.shape[3])
        readable = torch.cat([own, shared.flatten(2)], dim=2)[:, :, None, None]  # (G, B, 1, 1, N + (B - 1) K)
    return _per_image(q, with_others(k), with_others(v), readable, impl)


def _per_image(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, impl: Impl) -> Tensor:
    mask = None if mask is None else mask.flatten(0, 1)
    return attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), mask, impl).unflatten(0, q.shape[:2])


class Sharing:
    """The state that the installed layers read. The training step or the denoising loop sets it before a
    forward pass and leaves it until the backward pass is over; layers change nothing, so recomputed
    activations see the same state."""

    def __init__(self, rate: float, sampler: Sampler, impl: Impl):
        require(impl)
        self.rate, self.sampler, self.impl = rate, sampler, impl
        self.off()

    def off(self) -> None:
        """Layers do plain self-attention from now on."""
        self.keys, self.images, self.halves, self.step, self.allow = None, 1, 1, 0, None
        self._sets: dict[int, TokenSets] = {}

    def begin(self, keys: Tensor, images: int, step: int, halves: int = 1, allow: Tensor | None = None) -> None:
        """What comes next is a batch of halves * stories * images pictures in that order (half-major, then
        story by story). `keys` (stories,) int64 name the stories, `step` the denoising step."""
        self.keys, self.images, self.halves, self.step, self.allow = keys, images, halves, step, allow
        self._sets = {}

    def sets(self, tokens: int) -> TokenSets:
        """The sets of all groups, shared by every layer with this many tokens and by the halves."""
        if tokens not in self._sets:
            sets = token_sets(self.sampler, self.keys, self.images, tokens, self.rate, self.step)
            repeated = (None if x is None else x.repeat(self.halves, 1, 1) for x in sets)
            self._sets[tokens] = TokenSets(*repeated)
        return self._sets[tokens]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v (pictures, H, N, d), as `begin` announced them."""
        if self.keys is None:
            return attention(q, k, v, impl=self.impl)
        groups = self.halves * len(self.keys)
        if len(q) != groups * self.images:
            raise InputError(
                f"consistent self-attention was told of {self.halves} halves x"
                f" {len(self.keys)} stories x {self.images} images, but {len(q)} pictures came"
            )
        q, k, v = (x.unflatten(0, (groups, self.images)) for x in (q, k, v))
        return consistent_attention(q, k, v, self.sets(q.shape[3]), self.allow, self.impl).flatten(0, 1)


class ConsistentProcessor:
    """A diffusers attention processor for self-attention in transformer blocks: states (pictures, N, C)."""

    def __init__(self, sharing: Sharing):
        self.sharing = sharing

    def __call__(
        self, layer: Attention, hidden_states: Tensor, encoder_hidden_states=None, attention_mask=None
    ) -> Tensor:
        q, k, v = (
            project(hidden_states).unflatten(2, (layer.heads, -1)).transpose(1, 2)
            for project in (layer.to_q, layer.to_k, layer.to_v)
        )
        out = self.sharing.attend(q, k, v).transpose(1, 2).flatten(2)
        return layer.to_out[1](layer.to_out[0](out))


class Installed:
    """Layers that share. `restore` (or leaving the `with` block) puts their own processors back."""

    def __init__(self, layers: dict[str, Attention]):
        self.layers = layers
        self._before = {name: layer.processor for name, layer in layers.items()}

    def restore(self) -> None:
        for name, layer in self.layers.items():
            layer.set_processor(self._before[name])

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.restore()


def install(model: nn.Module, sharing: Sharing, pattern: str) -> Installed:
    """Put consistent self-attention on the attention layers of `model` whose names match `pattern`
    (re.search). Raises ValueError when none does."""
    named = {name: layer for name, layer in model.named_modules() if isinstance(layer, Attention)}
    layers = {name: layer for name, layer in named.items() if re.search(pattern, name)}
    if not layers:
        raise InputError(
            f"csa.layers={pattern!r} matches none of the {len(named)} attention layers,"
            f" which are named like {next(iter(named), 'nothing')!r}"
        )
    if crossing := [name for name, layer in layers.items() if layer.is_cross_attention]:
        raise InputError(
            f"csa.layers={pattern!r} matches the cross-attention layer {crossing[0]!r}:"
            " only self-attention (attn1) can be shared"
        )
    installed = Installed(layers)
    for layer in layers.values():
        layer.set_processor(ConsistentProcessor(sharing))
    return installed
