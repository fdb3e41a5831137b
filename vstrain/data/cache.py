"""A bounded folder on the local disk that holds whole copies of remote shards, shared by all processes of a node.

    <folder>/<hash of the url>/<hash of size and etag>    a complete copy; its modification time is its last use
    <folder>/parts/<hash of the url>.<size>               a copy under way; its writer holds a lock on it until it ends
    <folder>/locks/                                       one lock a url, and one for the accounts

Room for a copy is reserved before its first byte, so copies and parts together stay within the bound. A killed writer
loses its lock, by which the next process knows that its part is rubbish. Nothing here needs a network.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import xxhash

from vstrain.data.problems import DataError

log = logging.getLogger("vstrain")
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Cache:
    """folder: made if absent, best on a fast local disk; max_bytes: bound on all it holds. Picklable.

    Raises DataError when the folder cannot be written."""

    def __init__(self, folder: Path | str, max_bytes: int):
        self.folder, self.max_bytes = Path(folder).absolute(), int(max_bytes)
        if self.max_bytes <= 0:
            raise DataError(f"{self.folder}: a cache of {max_bytes} bytes holds nothing; give a positive bound")
        try:
            for name in ("parts", "locks"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            probe = self.folder / "parts" / f"probe.{os.getpid()}.0"
            probe.touch()
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(
                f"{self.folder}: the cache cannot be written here ({error.strerror}); give a folder on a local disk "
                "where you may write"
            ) from error

    def path(self, url: str) -> Path | None:
        """The complete copy of a url, marked as used now, or None. It may be evicted before you open it; once open,
        it stays readable."""
        with contextlib.suppress(OSError):
            for copy in os.scandir(self._place(url)):
                os.utime(copy.path, ns=(time.time_ns(),) * 2)  # the kernel's own clock ticks in milliseconds
                return Path(copy.path)
        return None

    def fetch(
        self, url: str, download: Callable[[BinaryIO], None], size: int, etag: str = "", wait: bool = True
    ) -> Path | None:
        """The copy of a url, made by `download` (which writes `size` bytes to the file it is given) unless it is there.

        size and etag tell versions apart: a copy of another version is replaced. Returns None when there cannot be a
        copy: larger than the cache, no room for it now, or, without `wait`, another process is at it. What `download`
        raises goes on to the caller and leaves nothing behind."""
        from filelock import FileLock, Timeout

        version = xxhash.xxh3_64_hexdigest(f"{size} {etag}".encode())
        try:
            with FileLock(self.folder / "locks" / f"{self._place(url).name}.lock", timeout=-1 if wait else 0):
                copy = self.path(url)
                if copy and copy.name == version:
                    return copy
                return self._copy(url, download, size, version)
        except Timeout:
            return None
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            self._tell_no_space(size)
            return None

    def drop(self, url: str) -> None:
        """Forget the copy of a url, if there is one (when its bytes turn out to be bad)."""
        with self._accounts():
            shutil.rmtree(self._place(url), ignore_errors=True)

    def used(self) -> int:
        """Bytes held and reserved."""
        return sum(size for _, size, _ in self._copies()) + sum(size for _, size in self._parts())

    # ---- within ---------------------------------------------------------------------------------------------------

    def _place(self, url: str) -> Path:
        return self.folder / xxhash.xxh3_128_hexdigest(url.encode())

    def _copy(self, url: str, download: Callable[[BinaryIO], None], size: int, version: str) -> Path | None:
        place = self._place(url)
        part = self._reserve(place.name, size)
        if part is None:
            return None
        with part:
            path = Path(part.name)
            try:
                download(part)
                part.flush()
                if (held := os.fstat(part.fileno()).st_size) != size:
                    raise OSError(errno.EIO, f"{held} of {size} bytes were written to its copy", url)
                os.fsync(part.fileno())
                with self._accounts():
                    shutil.rmtree(place, ignore_errors=True)
                    place.mkdir(exist_ok=True)
                    path.rename(place / version)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        return place / version

    def _reserve(self, name: str, size: int) -> BinaryIO | None:
        """An empty part that stands for `size` bytes, older copies having made way for it, or None for no room."""
        if size > self.max_bytes:
            return None
        with self._accounts():
            self._sweep()
            copies = sorted(self._copies())  # least recently used first
            room = self.max_bytes - sum(held for _, held, _ in copies) - sum(held for _, held in self._parts())
            free = shutil.disk_usage(self.folder).free - self._promised()
            if min(room, free) + sum(held for _, held, _ in copies) < size:
                if free < room:
                    self._tell_no_space(size)
                return None
            for _, held, path in copies:
                if min(room, free) >= size:
                    break
                path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    path.parent.rmdir()
                room, free = room + held, free + held
            part = (self.folder / "parts" / f"{name}.{size}").open("w+b")
            fcntl.flock(part, fcntl.LOCK_EX)
            return part

    def _copies(self) -> Iterator[tuple[int, int, Path]]:
        """(last use in ns, bytes, path) of every complete copy."""
        for place in os.scandir(self.folder):
            if place.name not in ("parts", "locks"):
                with contextlib.suppress(OSError):
                    for copy in os.scandir(place.path):
                        about = copy.stat()
                        yield about.st_mtime_ns, about.st_size, Path(copy.path)

    def _parts(self) -> list[tuple[Path, int]]:
        """(path, bytes reserved) of every copy under way."""
        return [(path, int(path.name.rpartition(".")[2])) for path in (self.folder / "parts").iterdir()]

    def _promised(self) -> int:
        """Bytes of the parts that are still to be written."""
        promised = 0
        for path, size in self._parts():
            with contextlib.suppress(OSError):
                promised += max(0, size - path.stat().st_blocks * 512)
        return promised

    def _sweep(self) -> None:
        """Remove the parts that nobody is writing."""
        for path, _ in self._parts():
            with contextlib.suppress(OSError), path.open("rb") as part:
                fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()

    def _accounts(self):
        from filelock import FileLock

        return FileLock(self.folder / "locks" / "accounts.lock")

    def _tell_no_space(self, size: int) -> None:
        log.warning(
            f"{self.folder}: no space left on the disk for {size} more bytes; reading goes on without a copy; free some "
            "space there, or give the cache a smaller bound"
        )
