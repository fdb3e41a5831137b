"""Addresses and their bytes: shards on disks, in object stores and elsewhere, read by ranges, many at once.

A reader never waits for a whole shard: it reads the ranges that it needs, from the cache's copy where there is one and
from the origin where there is none, while `prefetch` fills the cache behind it.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import glob
import os
import secrets
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import braceexpand

from vstrain.data.atomic import write_file
from vstrain.data.cache import Cache
from vstrain.data.prefetch import Prefetcher
from vstrain.data.problems import DataError
from vstrain.data.remote import StorageError, Transient, merge, persist, place, split

OPEN_FILES = 64
THREADS = 16
LASTING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG)


# ---- addresses ----------------------------------------------------------------------------------------------------


def is_remote(url: str) -> bool:
    return "://" in url and not url.startswith("file://")


def expand(urls: list[str]) -> list[str]:
    """The files that a list of addresses with globs and {000..012} braces stands for, in the order given, globs sorted.

    Local ones become absolute paths, links kept. Raises DataError for an empty list, a pattern that matches nothing, a
    local file that is missing, is a folder or cannot be read, and a place that cannot be listed."""
    if not urls:
        raise DataError("the list of shards is empty; give the path of at least one .tar file")
    found: list[str] = []
    for url in map(str, urls):
        try:
            patterns = list(braceexpand.braceexpand(url))
        except braceexpand.UnbalancedBracesError as error:
            raise DataError(f"{url}: a brace is not closed; write ranges like {{000..012}}") from error
        for pattern in patterns:
            found += _remote_files(pattern) if is_remote(pattern) else _local_files(pattern)
    return found


def stat(url: str) -> int:
    """Size in bytes. Raises DataError when there is no such file, or its place does not say."""
    return stat_all([url])[0]


def stat_all(urls: list[str]) -> list[int]:
    """Sizes in bytes; of remote files at the same time, or from one listing of a folder when many are in it."""
    sizes: dict[str, int] = {}
    try:
        folders: dict[str, list[str]] = {}
        for url in dict.fromkeys(urls):
            if is_remote(url):
                folders.setdefault(url.rpartition("/")[0] + "/", []).append(url)
            else:
                sizes[url] = _local_size(url)
        single = []
        for folder, members in folders.items():
            if len(members) > 2 * THREADS and not folder.startswith("http"):
                with contextlib.suppress(StorageError):  # reading may be allowed where listing is not
                    sizes |= _listing(folder, deep=False)
            single += [url for url in members if url not in sizes]
        with ThreadPoolExecutor(THREADS) as pool:
            sizes |= dict(zip(single, pool.map(_remote_size, single), strict=True))
    except StorageError as error:
        raise DataError(f"{error}; check data.*.urls" if error.missing else str(error)) from error
    return [sizes[url] for url in urls]


def get(url: str) -> bytes:
    """A whole small file. Raises StorageError (with `missing` set when there is none)."""
    if is_remote(url):
        backend, path = _place(url)
        return backend.get(path)
    try:
        return _local(url).read_bytes()
    except OSError as error:
        raise _local_error(url, error) from error


def write(url: str, data: bytes) -> None:
    """Write a whole small file so that a reader sees all of it or none. Raises StorageError."""
    if is_remote(url):
        backend, path = _place(url)
        return backend.put(path, data)
    path = _local(url)
    try:
        write_file(path, data, path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"))
    except OSError as error:
        raise _local_error(url, error) from error
    return None


# ---- bytes --------------------------------------------------------------------------------------------------------


class Storage:
    """Reads ranges of local and remote files. For use by several threads of a process; picklable, and usable after a
    fork for local files.

    cache: for whole copies of remote shards. retries: further attempts after a failure that may pass (refusals like 429
    and 503, lost connections, time-outs, bodies that end early), with growing waits. timeout: seconds for one request."""

    def __init__(self, cache: Cache | None = None, retries: int = 5, timeout: float = 30.0):
        self.cache, self.retries, self.timeout = cache, retries, timeout
        self._begin()

    def __getstate__(self) -> tuple:
        return self.cache, self.retries, self.timeout

    def __setstate__(self, state: tuple) -> None:
        self.__init__(*state)

    def _begin(self) -> None:
        self._pid, self._lock = os.getpid(), threading.Lock()
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._pool: ThreadPoolExecutor | None = None
        self._fetcher: Prefetcher | None = None

    def read(self, url: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`. Raises StorageError, also when fewer are there."""
        return self.read_many([(url, offset, size)])[0]

    def read_many(self, requests: list[tuple[str, int, int]]) -> list[bytes]:
        """The bytes of each (url, offset, size), all fetched at once. Raises the first StorageError."""
        if self._pid != os.getpid():
            self._begin()
        groups: dict[str, list[int]] = {}
        for n, (url, _, _) in enumerate(requests):
            groups.setdefault(url, []).append(n)
        results: list[bytes] = [b""] * len(requests)
        waiting: dict[str, Future] = {}
        here = []
        for url, numbers in groups.items():
            spans = [requests[n][1:] for n in numbers]
            if not is_remote(url):
                here.append((url, spans))
            elif (copied := self._from_copy(url, spans)) is not None:
                _place_results(results, numbers, copied)
            else:
                waiting[url] = self._threads().submit(self._remote, url, spans)
        for url, spans in here:
            _place_results(results, groups[url], [self._local(url, offset, size) for offset, size in spans])
        for url, future in waiting.items():
            _place_results(results, groups[url], future.result())
        return results

    def prefetch(self, urls: list[str]) -> None:
        """Tell which whole shards are needed next, soonest first; replaces what was told before. With a cache, a thread
        copies the remote ones there, as many as it holds. Returns at once."""
        if self._pid != os.getpid():
            self._begin()
        remote = [url for url in dict.fromkeys(urls) if is_remote(url)]
        if self.cache is None or (not remote and self._fetcher is None):
            return
        if self._fetcher is None:
            self._fetcher = Prefetcher(self.cache, self.retries, self.timeout)
        self._fetcher.want(remote)

    def advise(self, requests: list[tuple[str, int, int]]) -> None:
        """Tell the operating system which local (url, offset, size) are read soon, so that it fetches them meanwhile."""
        if not hasattr(os, "posix_fadvise"):
            return
        if self._pid != os.getpid():
            self._begin()
        with contextlib.suppress(OSError):  # who reads will find out
            for url, offset, size in requests:
                os.posix_fadvise(self._open(url).number, offset, size, os.POSIX_FADV_WILLNEED)

    def forget(self, url: str) -> None:
        """Drop the cache's copy of a shard, whose bytes have turned out to be bad: the next read asks the origin."""
        if self.cache:
            self.cache.drop(url)

    def close(self) -> None:
        """End the threads and close the files; a further read opens them again."""
        if self._pid == os.getpid():
            if self._fetcher:
                self._fetcher.stop()
            if self._pool:
                self._pool.shutdown(cancel_futures=True)
        self._begin()

    # ---- within ---------------------------------------------------------------------------------------------------

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="storage")
            return self._pool

    def _remote(self, url: str, spans: list[tuple[int, int]]) -> list[bytes]:
        backend, path = place(url, self.retries, self.timeout)
        merged = merge(spans)
        parts = backend.ranges(path, [start for start, _ in merged], [end for _, end in merged])
        results = []
        for offset, size in spans:
            n = next((n for n, (start, end) in enumerate(merged) if start <= offset and offset + size <= end), None)
            results.append(bytes(memoryview(parts[n])[offset - merged[n][0] :][:size]) if size else b"")
        return results

    def _from_copy(self, url: str, spans: list[tuple[int, int]]) -> list[bytes] | None:
        copy = self.cache.path(url) if self.cache else None
        if copy is None:
            return None
        try:
            file = _File(copy)  # not kept open: an evicted copy would go on taking room
            return [file.read(url, offset, size) for offset, size in spans]
        except OSError:  # evicted just now, or damaged
            return None

    def _local(self, url: str, offset: int, size: int) -> bytes:
        def call() -> bytes:
            try:
                return self._open(url).read(url, offset, size)
            except StorageError:
                raise
            except OSError as error:
                with self._lock:
                    self._files.pop(url, None)
                if error.errno in LASTING:
                    raise _local_error(url, error) from error
                raise Transient(error.strerror or str(error)) from error

        return persist(url, self.retries, call)

    def _open(self, url: str) -> _File:
        with self._lock:
            if file := self._files.get(url):
                self._files.move_to_end(url)
                return file
        file = _File(_local(url))
        with self._lock:
            self._files[url] = file
            while len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)
        return file


class _File:
    """A descriptor that closes when its last user lets go."""

    def __init__(self, path: Path):
        self.number = -1
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self):
        if self.number >= 0:
            os.close(self.number)

    def read(self, url: str, offset: int, size: int) -> bytes:
        data = os.pread(self.number, size, offset)
        while len(data) < size:
            more = os.pread(self.number, size - len(data), offset + len(data))
            if not more:
                end = os.fstat(self.number).st_size
                sentence = f"{len(data)} of {size} bytes came from offset {offset}: the file ends at {end}"
                raise StorageError(url, sentence, missing=True)
            data += more
        return data


# ---- within -------------------------------------------------------------------------------------------------------


def _place_results(results: list[bytes], numbers: list[int], values: list[bytes]) -> None:
    for n, value in zip(numbers, values, strict=True):
        results[n] = value


def _place(url: str):
    return place(url, 3, 30.0)


def _local(url: str) -> Path:
    return Path(url.removeprefix("file://")).expanduser().absolute()


def _local_error(url: str, error: OSError) -> StorageError:
    missing = isinstance(error, FileNotFoundError)
    return StorageError(url, "there is no such file" if missing else error.strerror or str(error), missing=missing)


def _local_size(url: str) -> int:
    try:
        return _local(url).stat().st_size
    except OSError as error:
        raise _local_error(url, error) from error


def _remote_size(url: str) -> int:
    backend, path = _place(url)
    return backend.about(path)[0]


def _local_files(pattern: str) -> list[str]:
    path = str(_local(pattern))
    if glob.has_magic(path) and not Path(path).exists():
        found = sorted(glob.glob(path))  # noqa: PTH207
        if not found:
            raise DataError(f"{pattern}: no shard matches this pattern; give the path of existing .tar files")
        return [file for file in found if _readable(file)]
    _readable(path)
    return [path]


def _readable(path: str) -> bool:
    try:
        if Path(path).is_dir():
            raise DataError(f"{path}: this is a folder, not a shard; to take all shards in it write {path}/*.tar")
        Path(path).stat()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such shard; give the path of existing .tar files") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); allow it, or give other shards") from error
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: cannot be read (Permission denied); allow it, or give other shards")
    return True


def _listing(folder: str, deep: bool) -> dict[str, int]:
    backend, path = _place(folder)
    return backend.listing(path, deep)


def _remote_files(pattern: str) -> list[str]:
    if pattern.endswith("/"):
        raise DataError(f"{pattern}: this is a folder, not a shard; to take all shards in it write {pattern}*.tar")
    scheme, root, path = split(pattern)
    if scheme in ("http", "https") or not glob.has_magic(path):
        if scheme in ("http", "https") and "*" in path:
            raise DataError(
                f"{pattern}: a web server does not list its files; write them out, as in train-{{000..012}}.tar"
            )
        return [pattern]
    steps = path.split("/")
    fixed = next(n for n, step in enumerate(steps) if glob.has_magic(step))
    folder = "/".join([root, *steps[:fixed]]) + "/"
    try:
        listed = _listing(folder, deep=fixed < len(steps) - 1)
    except StorageError as error:
        if not error.missing:
            raise DataError(str(error)) from error
        listed = {}
    found = sorted(url for url in listed if _matches(split(url)[2], path))
    if not found:
        raise DataError(f"{pattern}: no shard matches this pattern; give the address of existing .tar files")
    return found


def _matches(path: str, pattern: str) -> bool:
    """As a shell does it: a star does not cross a slash."""
    steps, wanted = path.split("/"), pattern.split("/")
    return len(steps) == len(wanted) and all(map(fnmatch.fnmatchcase, steps, wanted))
