"""How many pictures a second the procedural world writes, with one process and with two.

python benchmarks/procedural_render.py [SAMPLES]   (default 200 depth pictures of 128x128; other kinds a tenth of it)
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from data_pipelines.procedural import build
from data_pipelines.procedural.config import DepthWorld, DragWorld, MultiviewWorld, StoryWorld


def main(samples: int) -> None:
    few = max(samples // 10, 2)
    worlds = {
        "depth": (DepthWorld(samples=samples, val_samples=1, size=128), 1),
        "drag": (DragWorld(samples=samples, val_samples=1, size=64), 2),
        "multiview": (MultiviewWorld(samples=few, val_samples=1, size=64, targets=12), 22),
        "story": (StoryWorld(samples=few, val_samples=1, size=64, shots=4, frames=16), 64),
    }
    for kind, (config, pictures) in worlds.items():
        for processes in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                build.build(kind, config, Path(folder), processes, lambda *step: None)
                seconds = time.perf_counter() - start
            rate = (config.samples + 1) / seconds
            print(
                f"{kind:10} {config.size}x{config.size}  {processes} process(es)  {rate:7.1f} samples/s  "
                f"{rate * pictures:7.1f} pictures/s",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
