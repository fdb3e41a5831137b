"""From a long video to pictures and captions of fixed shape. NumPy and OpenCV only: it runs in data
workers."""

from __future__ import annotations

import cv2
import numpy as np

from vstrain.data.kinds import SampleError

CAPTION_BYTES = 256


def shots(sample: dict) -> list[dict]:
    """The shots of a `story` sample; SampleError where they do not fit the video."""
    listed, length = sample["json"].get("shots"), len(sample["mp4"])
    if not listed:
        raise SampleError(f"sample {sample['__key__']}: json lists no shots; a story needs at least one")
    for shot in listed:
        if not 0 <= shot["start"] < shot["end"] <= length:
            raise SampleError(
                f"sample {sample['__key__']}: shot {shot['start']}..{shot['end']} is not inside"
                f" the video of {length} frames"
            )
    return listed


def fit(frames: np.ndarray, size: int) -> np.ndarray:
    """Frames uint8 (T, H, W, 3) -> (T, 3, size, size): scaled by the short side, centre cropped."""
    height, width = frames.shape[1:3]
    scale = size / min(height, width)
    shape = (max(size, round(width * scale)), max(size, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = [frame if scale == 1 else cv2.resize(frame, shape, interpolation=method) for frame in frames]
    top, left = (shape[1] - size) // 2, (shape[0] - size) // 2
    cropped = np.stack([frame[top : top + size, left : left + size] for frame in resized])
    return np.ascontiguousarray(cropped.transpose(0, 3, 1, 2))


def caption_bytes(text: str) -> np.ndarray:
    """A caption as uint8 (CAPTION_BYTES,), so that it travels in a batch; zeros fill the rest."""
    row = np.zeros(CAPTION_BYTES, dtype=np.uint8)
    data = np.frombuffer(text.encode("ascii", "replace")[:CAPTION_BYTES], dtype=np.uint8)
    row[: len(data)] = data
    return row


def caption_text(row: np.ndarray) -> str:
    return bytes(row).rstrip(b"\0").decode("ascii")
