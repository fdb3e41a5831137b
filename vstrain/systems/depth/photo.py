"""Reading a user's photos, whatever they are, as 8-bit RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps


class UnreadablePhoto(ValueError):
    """One sentence that says what is wrong with a file."""


def read_photo(path: Path) -> np.ndarray:
    """uint8 RGB (H, W, 3), turned upright by its EXIF tag. Grey, 16-bit, palette and CMYK pictures are
    converted, transparent ones laid over white. Raises UnreadablePhoto."""
    try:
        with Image.open(path) as image:
            image.load()
            return np.asarray(to_rgb(ImageOps.exif_transpose(image)))
    except FileNotFoundError as error:
        raise UnreadablePhoto("no such file; check the path") from error
    except Image.UnidentifiedImageError as error:
        if path.suffix.lower() in (".heic", ".heif"):
            raise UnreadablePhoto("HEIC pictures are not read; export the photo as JPEG") from error
        raise UnreadablePhoto("not a picture; expected JPEG, PNG, TIFF, WebP or what else Pillow reads") from error
    except Image.DecompressionBombError as error:
        limit = f"{2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels"
        raise UnreadablePhoto(f"more than {limit}; scale it down first") from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise on damaged files
        raise UnreadablePhoto(f"the picture does not decode ({error}); it may be cut short") from error


def focal_35mm(path: Path) -> float | None:
    """The 35 mm equivalent focal length in millimetres that a readable photo's EXIF states, None without one."""
    with Image.open(path) as image:
        stated = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.FocalLengthIn35mmFilm)
    try:
        return float(stated) if stated and 1 <= float(stated) <= 10_000 else None  # 0 is "unknown"
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow picture in mode RGB. Integers beyond 8 bits are read as 16-bit, floats as the range 0 to
    1."""
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        pixels = np.asarray(image)
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError("float pixels outside 0 to 1")
        return Image.fromarray((pixels * 255).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
