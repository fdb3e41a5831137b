"""What lies where in a tar file, read header by header, so that a damaged header costs its own member and nothing else.

Understands ustar, GNU and pax archives (long names, pax `path` and `size`, base-256 sizes). Members are only located,
never unpacked: no file name in an archive can make anything be written anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vstrain.data.problems import DataError

BLOCK = 512
LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL, FOLDER = b"L", b"K", b"x", b"g", b"5"


class Member(NamedTuple):
    name: str
    offset: int  # of the first data byte; a multiple of 512
    size: int  # bytes


class Fault(NamedTuple):
    offset: int  # where in the archive
    reason: str


def walk(data, name: str) -> Iterator[Member | Fault]:
    """Every regular member of the archive in `data` (bytes, memoryview or mmap), in order, and every fault between them.

    `name` is the file for messages. Raises DataError for what is no tar at all, or names a path outside its folder."""
    total = len(data)
    if total == 0:
        raise DataError(f"{name}: is empty (zero bytes); expected a tar file, write it again")
    if bytes(data[:2]) == b"\x1f\x8b":
        raise DataError(f"{name}: is compressed with gzip, so single samples cannot be read; unpack it with gunzip")
    at, found, long_name, pax = 0, False, None, {}
    while at + BLOCK <= total:
        header = bytes(data[at : at + BLOCK])
        size = _size(header) if _sound(header) else None
        if size is None:
            following = _next_header(data, at + BLOCK)
            if not found and following is None and header.strip(b"\0"):
                raise DataError(f"{name}: is not a tar file; give .tar shards in WebDataset format")
            if following is None and not header.strip(b"\0"):
                return  # the zeros that end an archive
            if not _is_end_mark(data, at, following):
                yield Fault(at, "a damaged header: the member behind it is lost")
            if following is None:
                return
            at, long_name, pax = following, None, {}
            continue
        found, kind, start = True, header[156:157], at + BLOCK
        if "size" in pax and kind not in (PAX, LONG_NAME):
            size = pax["size"]
        if start + size > total:
            yield Fault(at, f"cut off: {total - start} of {size} bytes of {_name(header, long_name, pax)} are there")
            return
        at = start + -(-size // BLOCK) * BLOCK
        if kind in (LONG_NAME, LONG_LINK):
            text = bytes(data[start : start + size]).split(b"\0")[0].decode("utf-8", "surrogateescape")
            long_name = text if kind == LONG_NAME else long_name
        elif kind == PAX:
            pax = _pax(bytes(data[start : start + size]))
        elif kind == PAX_GLOBAL:
            pass
        else:
            path, long_name, pax = _name(header, long_name, pax), None, {}
            if kind == b"\0" and path.endswith("/"):
                kind = FOLDER
            if kind in (b"0", b"\0", b"7"):
                yield Member(_safe(path, name), start, size)
            elif kind != FOLDER:
                yield Fault(start - BLOCK, f"{path} is a link or a special file, which is not read")


def _sound(header: bytes) -> bool:
    """Whether the header's checksum holds (bytes counted unsigned, or signed as old archivers did)."""
    field = header[148:156].strip(b" \0")
    try:
        stored = int(field, 8) if field else -1
    except ValueError:
        return False
    spaces = 8 * 32
    if sum(header) - sum(header[148:156]) + spaces == stored:
        return True
    signed = np.frombuffer(header, np.int8)
    return int(signed.sum(dtype=np.int64)) - int(signed[148:156].sum(dtype=np.int64)) + spaces == stored


def _size(header: bytes) -> int | None:
    field = header[124:136]
    if field[0] & 0x80:  # base 256
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big") if field[0] == 0x80 else None
    text = field.split(b"\0")[0].strip()
    try:
        return int(text, 8) if text else 0
    except ValueError:
        return None


def _name(header: bytes, long_name: str | None, pax: dict) -> str:
    if "path" in pax:
        return pax["path"]
    if long_name is not None:
        return long_name
    name, prefix = header[:100].split(b"\0")[0], b""
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].split(b"\0")[0]
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")


def _safe(path: str, archive: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise DataError(
            f"{archive}: member {path!r} points outside of its folder; the archive is refused, write it again"
        )
    return path.removeprefix("./")


def _pax(text: bytes) -> dict:
    """`path` and `size` of a pax record block: lines of "length key=value" with a newline."""
    out: dict = {}
    while text:
        length = text.split(b" ", 1)[0]
        if not length.isdigit() or not 0 < int(length) <= len(text):
            break
        record, text = text[len(length) + 1 : int(length) - 1], text[int(length) :]
        key, _, value = record.partition(b"=")
        if key == b"path":
            out["path"] = value.decode("utf-8", "surrogateescape")
        elif key == b"size" and value.isdigit():
            out["size"] = int(value)
    return out


def _next_header(data, start: int, window: int = 1 << 14) -> int | None:
    """Offset of the first sound header with the ustar magic at or after `start`, looked for on block boundaries."""
    blocks = (len(data) - start) // BLOCK
    for first in range(0, blocks, window):
        count = min(window, blocks - first)
        base = start + first * BLOCK
        raw = np.frombuffer(data[base : base + count * BLOCK], np.uint8).reshape(count, BLOCK)
        magic = np.flatnonzero((raw[:, 257:262] == np.frombuffer(b"ustar", np.uint8)).all(axis=1))
        for row in magic:
            header = raw[row].tobytes()
            if _sound(header) and _size(header) is not None:
                return base + int(row) * BLOCK
    return None


def _is_end_mark(data, at: int, following: int | None) -> bool:
    """Zeros up to the next header: two archives written one behind the other."""
    end = len(data) if following is None else following
    return end - at >= 2 * BLOCK and not any(bytes(data[at:end]).strip(b"\0"))
