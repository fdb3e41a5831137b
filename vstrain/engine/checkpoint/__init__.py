"""Checkpoints: `Saver` writes them, now or in the background; `load` puts one back, under any strategy on any number of ranks.

vstrain.config.checkpoints has the layout of the folder, `pieces` what makes it independent of how the state was spread.
"""

from vstrain.engine.checkpoint.folder import point_last, write, write_tensors
from vstrain.engine.checkpoint.saver import Saver
from vstrain.engine.checkpoint.state import Stateful, collect, load

__all__ = ["Saver", "Stateful", "collect", "load", "point_last", "write", "write_tensors"]
