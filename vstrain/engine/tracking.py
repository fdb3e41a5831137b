"""Memory, FLOPs and bytes on the wire of a step, counted while it runs: on fake tensors for a plan, on real ones for a test."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

OTHER = "other"  # activations, temporaries: whatever no category was given

aten = torch.ops.aten
GATHER = {"_allgather_base_", "allgather_into_tensor_coalesced_", "all_gather_into_tensor"}
SCATTER = {"_reduce_scatter_base_", "reduce_scatter_tensor_coalesced_", "reduce_scatter_tensor"}
REDUCE = {"allreduce_", "all_reduce", "all_reduce_"}


class Tracker(TorchDispatchMode):
    """Counts every storage that an operation creates until it is freed or resized.

    granularity: bytes that the allocator rounds up to (512 on CUDA; 1: what was asked for).
    live: bytes by category; peak: the largest sum of them, at_peak: the categories at that moment.
    flops: of matrix products, convolutions and attention. wire: full message bytes by kind of collective: what an all-gather
    returns, what a reduce-scatter is given, the size of an all-reduce."""

    def __init__(self, granularity: int = 512):
        super().__init__()
        self.granularity = granularity
        self.live: Counter[str] = Counter()
        self.peak, self.at_peak = 0, Counter()
        self.flops = 0
        self.wire: Counter[str] = Counter()
        self._held: dict[int, tuple[weakref.ref, int, str]] = {}  # address of a storage -> (storage, bytes, category)

    def __enter__(self):
        tracker, self._resize = self, torch.UntypedStorage.resize_

        def resize_(storage, size):  # how FSDP frees and takes back its gathered weights
            result = tracker._resize(storage, size)
            if storage._cdata in tracker._held:
                tracker._add(storage, tracker._held[storage._cdata][2])
            return result

        torch.UntypedStorage.resize_ = resize_
        return super().__enter__()

    def __exit__(self, *error):
        torch.UntypedStorage.resize_ = self._resize
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # its own local operations come by afterwards
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        self.flops += flops_of(function, args, kwargs, out)
        if function.namespace in ("c10d", "_c10d_functional"):
            self._count_message(function, args, out)
        self.watch(tree_iter(out), OTHER, new=True)
        return out

    def watch(self, tensors: Iterable, category: str, new: bool = False) -> None:
        """Count the storages of `tensors` under `category`; new: only those that are not counted yet."""
        for tensor in tensors:
            if isinstance(tensor, DTensor):
                tensor = tensor.to_local()
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if not (new and storage._cdata in self._held):
                    self._add(storage, category)

    def start_again(self) -> None:
        """Forget the peak, not what is alive."""
        self.peak, self.at_peak = 0, Counter()
        self._note_peak()

    def _add(self, storage: torch.UntypedStorage, category: str) -> None:
        key = storage._cdata
        if key in self._held:
            self._drop(key)
        size = -(-storage.nbytes() // self.granularity) * self.granularity
        self._held[key] = (weakref.ref(storage, lambda _: self._drop(key)), size, category)
        self.live[category] += size
        self._note_peak()

    def _drop(self, key: int) -> None:
        _, size, category = self._held.pop(key)
        self.live[category] -= size

    def _note_peak(self) -> None:
        if (now := sum(self.live.values())) > self.peak:
            self.peak, self.at_peak = now, Counter(self.live)

    def _count_message(self, function, args, out) -> None:
        name = function._schema.name.partition("::")[2]
        kind = (
            "all-gather" if name in GATHER else "reduce-scatter" if name in SCATTER else "all-reduce" * (name in REDUCE)
        )
        if kind:
            given = [value for value in tree_iter(args) if isinstance(value, Tensor)]
            returned = [value for value in tree_iter(out) if isinstance(value, Tensor)]
            self.wire[kind] += max(sum(t.nbytes for t in given if t is not None), sum(t.nbytes for t in returned))


def flops_of(function, args, kwargs, out) -> int:
    """torch's own table, and attention on the CPU, which that table lacks."""
    packet = function._overloadpacket
    if packet is aten._scaled_dot_product_flash_attention_for_cpu:
        return sdpa_flop_count(*(tensor.shape for tensor in args[:3]))
    if packet is aten._scaled_dot_product_flash_attention_for_cpu_backward:
        return sdpa_backward_flop_count(*(tensor.shape for tensor in args[:4]))
    return flop_registry[packet](*args, **kwargs, out_val=out) if packet in flop_registry else 0
