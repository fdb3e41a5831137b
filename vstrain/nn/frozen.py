"""A network that helps in training and is no part of the model."""

from __future__ import annotations

from torch import nn


class Frozen(nn.Module):
    """Calls `net` without training it. It follows its owner from device to device, but its parameters are not the owner's:
    no optimiser, checkpoint or gradient reduction sees them. They come from their own file at every start."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self._net = (net.requires_grad_(False).eval(),)  # in a tuple, where nn.Module does not look

    @property
    def net(self) -> nn.Module:
        return self._net[0]

    def _apply(self, fn, recurse=True):
        self.net._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(self, *arguments, **named):
        return self.net(*arguments, **named)
