"""A trained network as an ONNX file of free batch size, height and width, checked against PyTorch after it is written.

The position table is resampled by a product with cubic weights that the graph computes from the sizes: ONNX's Resize works
out its scale from the sizes, and DINOv2's rule has another.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DepthAnythingForDepthEstimation
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings

from vstrain.config.problems import InputError
from vstrain.systems.depth.config import PATCH
from vstrain.systems.depth.network import OfficialEmbeddings

OPSET = 18
CUBIC = -0.75  # the constant of PyTorch's bicubic kernel
MOST = 1024  # patches a side: a bound that the exporter wants to know
TOLERANCE = 1e-3  # of a difference, relative to the largest value of PyTorch's prediction
NEEDED = ("onnx", "onnxscript", "onnxruntime")
log = logging.getLogger("vstrain")


def check_installed() -> None:
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise InputError(
            f"system.export.onnx=true needs {', '.join(missing)}, not installed here; install vstrain[onnx], or set "
            "system.export.onnx=false"
        )


def export_onnx(net: DepthAnythingForDepthEstimation, path: Path) -> list[Path]:
    """Writes `path`: pixel_values float32 (batch, 3, height, width), normalised as by the exported image processor, sides
    multiples of 14, to predicted_depth float32 (batch, height, width). A file may hold 2 GB: the weights of a larger
    network go into PATH.data beside it. Raises InputError where ONNX Runtime's results are not PyTorch's."""
    check_installed()
    net = copy.deepcopy(net).cpu().float().eval().to(memory_format=torch.contiguous_format)
    graph = Graph(net)
    batch, *sides = (torch.export.Dim(name, min=1, max=MOST) for name in ("batch", "rows", "columns"))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # says of each operator of torchvision that it is not there
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            (torch.zeros(2, 3, 5 * PATCH, 7 * PATCH),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["pixel_values"],
            output_names=["predicted_depth"],
            dynamic_shapes=({0: batch, 2: PATCH * sides[0], 3: PATCH * sides[1]},),
            verbose=False,
        )
    large = sum(p.numel() * p.element_size() for p in net.parameters()) > 1 << 30
    program.save(path, external_data=large)
    compare(net, path)
    return [path, path.with_name(f"{path.name}.data")] if large else [path]


def compare(net: DepthAnythingForDepthEstimation, path: Path) -> None:
    """Prints the largest difference between ONNX Runtime on `path` and PyTorch at three sizes, one of them the position
    table's own; raises InputError where one is too large."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    side = PATCH * table_side(net.backbone.embeddings)
    generator = torch.Generator().manual_seed(0)
    for batch, height, width in ((1, side, side), (2, 5 * PATCH, 9 * PATCH), (1, 18 * PATCH, 13 * PATCH)):
        pixels = torch.randn(batch, 3, height, width, generator=generator)
        with torch.no_grad():
            expected = net(pixel_values=pixels).predicted_depth
        found = torch.from_numpy(session.run(None, {"pixel_values": pixels.numpy()})[0])
        if found.shape != expected.shape:
            raise InputError(
                f"{path}: ONNX Runtime gives {tuple(found.shape)} where PyTorch gives {tuple(expected.shape)}; do not use "
                "this file; install the versions in constraints.txt"
            )
        difference, largest = (found - expected).abs().max().item(), expected.abs().max().item()
        log.info(
            "ONNX %d x %d x %d: differs by at most %.1e from PyTorch, of %.3g",
            batch,
            height,
            width,
            difference,
            largest,
        )
        if not difference <= TOLERANCE * largest:
            raise InputError(
                f"{path}: at {height} x {width} ONNX Runtime differs by {difference:.3g} of {largest:.3g} from PyTorch; do "
                "not use this file; install the versions in constraints.txt"
            )


class Graph(nn.Module):
    """The network with sizes as symbols: its own head turns them into integers, which would fix them in the graph."""

    def __init__(self, net: DepthAnythingForDepthEstimation):
        super().__init__()
        self.net = copy.deepcopy(net)
        embeddings = self.net.backbone.embeddings
        embeddings.__class__ = Official if isinstance(embeddings, OfficialEmbeddings) else ToSize

    def forward(self, pixel_values: Tensor) -> Tensor:
        size = pixel_values.shape[-2:]
        grid = size[0] // PATCH, size[1] // PATCH
        head = self.net.head
        fused = self.net.neck(self.net.backbone(pixel_values).feature_maps, *grid)[head.head_in_index]
        depth = F.interpolate(
            head.conv1(fused), (grid[0] * PATCH, grid[1] * PATCH), mode="bilinear", align_corners=True
        )
        depth = head.conv3(head.activation1(head.conv2(depth)))
        return (head.activation2(depth) * head.max_depth).squeeze(1)


class Official(Dinov2Embeddings):
    """OfficialEmbeddings as a product with cubic weights."""

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        """As in OfficialEmbeddings; the identity at the table's own size."""
        return resample(self, height // PATCH, width // PATCH, lambda side, count: side / (count + 0.1))


class ToSize(Dinov2Embeddings):
    """transformers' rule as a product with cubic weights."""

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        return resample(self, height // PATCH, width // PATCH, lambda side, count: side / count)


def table_side(embeddings: Dinov2Embeddings) -> int:
    """Patches a side of the position table."""
    return math.isqrt(embeddings.position_embeddings.shape[1] - 1)


def resample(embeddings: Dinov2Embeddings, rows: int, columns: int, step: Callable[[int, Tensor], Tensor]) -> Tensor:
    """The position table (1, 1 + rows columns, D); step(side, count): the distance of two targets in patches of the table."""
    table, side = embeddings.position_embeddings, table_side(embeddings)
    # sizes as tensors, so that the graph decides and not the exporter
    counts = [torch.ones(count).sum() for count in (rows, columns)]
    native = (counts[0] == side) & (counts[1] == side)
    down, across = (
        cubic_weights(count, side, torch.where(native, torch.ones(()), step(side, exact)))
        for count, exact in zip((rows, columns), counts, strict=True)
    )
    grid = torch.matmul(down, table[0, 1:].reshape(side, -1)).reshape(rows, side, -1)
    grid = torch.matmul(across, grid).reshape(1, rows * columns, -1)
    return torch.cat((table[:, :1], grid), dim=1)


def cubic_weights(count: int, side: int, step: Tensor) -> Tensor:
    """(count, side): weights of cubic convolution (Keys, 1981) of `side` values at the places (i + 0.5) step - 0.5, with the
    outermost values held beyond the ends."""
    place = (torch.arange(count) + 0.5) * step - 0.5
    first = torch.floor(place)
    weights = torch.zeros(count, side)
    for tap in range(-1, 3):
        t = torch.abs(place - first - tap)
        near = ((CUBIC + 2) * t - (CUBIC + 3)) * t * t + 1
        far = ((CUBIC * t - 5 * CUBIC) * t + 8 * CUBIC) * t - 4 * CUBIC
        column = (first + tap).clamp(0, side - 1)
        weights = weights + torch.where(t <= 1, near, far)[:, None] * (column[:, None] == torch.arange(side))
    return weights
