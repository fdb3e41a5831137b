"""Object stores and other remote places behind one small interface, with the retries and the errors spelled out.

obstore serves s3, gs, az and plain http(s); fsspec everything else. Both are imported at first use. obstore itself retries
refusals (429, 5xx), lost connections, time-outs and bodies that end early; here are added bodies that are complete by
their headers yet shorter than what was asked for, and all of it for fsspec.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")
SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "http", "https")
PART = 8 << 20  # bytes of one request when much is read
SMALL_GAP = 4096  # bytes that cost less to read over than one more request
WASTE = 0.15  # most that may be read over, as a part of what is needed
BEYOND = "the range begins beyond the end"
_runtime: list[int] = []  # the process in which obstore's threads were started


class StorageError(OSError):
    """A transfer that failed for good. url; attempts: how many were made; missing: there is no such file or
    object, or it ends before the bytes that were asked for."""

    def __init__(self, url: str, sentence: str, attempts: int = 1, missing: bool = False):
        tries = f" ({attempts} attempts)" if attempts > 1 else ""
        super().__init__(f"{url}: {sentence}{tries}")
        self.url, self.sentence, self.attempts, self.missing = url, sentence, attempts, missing

    def __reduce__(self):
        return StorageError, (self.url, self.sentence, self.attempts, self.missing)


class Transient(Exception):
    """A failure that may not come again."""


def persist(url: str, retries: int, call: Callable[[], T]) -> T:
    """call(), again after each Transient, at most `retries` times, with waits that double up to 15 s and jitter."""
    for attempt in range(retries + 1):
        try:
            return call()
        except Transient as error:
            if attempt == retries:
                raise StorageError(url, str(error), attempt + 1) from error
            time.sleep(random.uniform(0.5, 1) * min(15.0, 0.1 * 2**attempt))
    raise AssertionError


def split(url: str) -> tuple[str, str, str]:
    """(scheme, root, path): s3://bucket/a/b is ("s3", "s3://bucket", "a/b")."""
    scheme, _, rest = url.partition("://")
    place, _, path = rest.partition("/")
    return scheme.lower(), f"{scheme}://{place}", path


def place(url: str, retries: int, timeout: float) -> tuple[ObjectStore | Filesystem, str]:
    """What serves a url, and the url's path there."""
    scheme, root, path = split(url)
    if scheme in SCHEMES and not (scheme.startswith("http") and "?" in url):
        return ObjectStore.of(root, retries, timeout, os.getpid()), path
    return Filesystem.of(root, retries, os.getpid()), url


def merge(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Disjoint sorted (start, end) that hold all (offset, size): spans with small gaps become one request, of at most
    PART bytes where spans allow, and at most WASTE of what is needed is read over beyond gaps of SMALL_GAP."""
    ordered = sorted((offset, offset + size) for offset, size in spans if size)
    joined: list[list[int]] = []
    for start, end in ordered:  # overlapping ones first: needed bytes are counted once
        if joined and start < joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([start, end])
    spare = WASTE * sum(end - start for start, end in joined)
    widest = SMALL_GAP
    for gap in sorted(after[0] - before[1] for before, after in zip(joined, joined[1:], strict=False)):
        if (spare := spare - gap) < 0:
            break
        widest = max(widest, gap)
    merged: list[tuple[int, int]] = []
    for start, end in joined:
        if merged and start - merged[-1][1] <= widest and end - merged[-1][0] <= PART:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


class ObjectStore:
    """A bucket, container or web server. timeout: seconds for one whole request."""

    of = functools.cache(lambda *arguments: ObjectStore(*arguments[:3]))

    def __init__(self, root: str, retries: int, timeout: float):
        from obstore.store import from_url

        if _runtime and _runtime[0] != os.getpid():
            raise StorageError(
                root,
                "this process was forked after its parent had read from an object store, which leaves the client's threads "
                "behind; start processes by 'spawn' or 'forkserver'",
            )
        _runtime[:] = [os.getpid()]
        self.root, self.retries = root, retries
        try:
            self.store = from_url(
                root,
                client_options={"allow_http": True, "timeout": timedelta(seconds=timeout)},
                retry_config={"max_retries": retries},
            )
        except Exception as error:
            raise StorageError(root, f"no such address ({_first_line(error)})") from error

    def url(self, path: str) -> str:
        return f"{self.root}/{path}"

    def about(self, path: str) -> tuple[int, str]:
        """(bytes, version tag)"""
        import obstore

        with self._errors(self.url(path)):
            meta = obstore.head(self.store, path)
        return meta["size"], meta["e_tag"] or ""

    def listing(self, folder: str, deep: bool) -> dict[str, int]:
        """url -> bytes of what lies in a folder (or anywhere below it)."""
        import obstore

        with self._errors(self.url(folder)):
            if deep:
                found = [meta for batch in obstore.list(self.store, folder or None) for meta in batch]
            else:
                found = obstore.list_with_delimiter(self.store, folder or None)["objects"]
        return {self.url(meta["path"]): meta["size"] for meta in found}

    def ranges(self, path: str, starts: list[int], ends: list[int]) -> list[bytes]:
        """The bytes [start, end) of each range, fetched side by side. The ranges must not overlap."""
        import obstore

        found: dict[int, bytes] = {n: b"" for n in range(len(starts)) if ends[n] <= starts[n]}

        def call() -> None:
            asked = [n for n in range(len(starts)) if n not in found]
            if not asked:
                return
            try:
                with self._errors(self.url(path)):
                    parts = obstore.get_ranges(
                        self.store, path, starts=[starts[n] for n in asked], ends=[ends[n] for n in asked], coalesce=0
                    )
            except StorageError as error:
                if error.sentence == BEYOND:
                    last = max(asked, key=lambda n: starts[n])
                    self._refuse_beyond(path, ends[last], f"0 of {ends[last] - starts[last]} bytes came")
                raise
            for n, part in zip(asked, parts, strict=True):
                if len(part) == ends[n] - starts[n]:
                    found[n] = part
                else:
                    short = f"{len(part)} of {ends[n] - starts[n]} bytes came from offset {starts[n]}"
                    self._refuse_beyond(path, ends[n], short)
            if len(found) < len(starts):
                raise Transient(short)

        persist(self.url(path), self.retries, call)
        return [found[n] for n in range(len(starts))]

    def get(self, path: str) -> bytes:
        import obstore

        with self._errors(self.url(path)):
            answer = obstore.get(self.store, path)
            return bytes(answer.bytes())

    def put(self, path: str, data: bytes) -> None:
        import obstore

        with self._errors(self.url(path)):
            obstore.put(self.store, path, data)

    def _refuse_beyond(self, path: str, end: int, short: str) -> None:
        if end > (size := self.about(path)[0]):
            raise StorageError(self.url(path), f"{short}: the object ends at {size}", missing=True)

    @contextlib.contextmanager
    def _errors(self, url: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except FileNotFoundError as error:
            raise StorageError(url, _sentence(str(error), "there is no such object"), missing=True) from error
        except (BaseError, OSError, ValueError) as error:
            if isinstance(error, StorageError):
                raise
            text = str(error)
            counted = re.search(r"after (\d+) retries", text)
            lost = "body error" in text or "Interrupted" in text  # told without a count, after all retries
            attempts = int(counted[1]) + 1 if counted else self.retries + 1 if lost else 1
            raise StorageError(url, _sentence(text, _first_line(error)), attempts) from error


class Filesystem:
    """Whatever fsspec knows: hf, memory, sftp, …"""

    of = functools.cache(lambda *arguments: Filesystem(*arguments[:2]))

    def __init__(self, root: str, retries: int):
        try:
            from fsspec.core import url_to_fs

            self.system, self.retries = url_to_fs(root)[0], retries
        except (ImportError, ValueError) as error:
            raise StorageError(root, f"nothing installed reads this kind of address ({error})") from error

    def about(self, url: str) -> tuple[int, str]:
        info = self._call(url, lambda: self.system.info(url))
        return info["size"], str(info.get("etag") or info.get("ETag") or info.get("blob_id") or "")

    def listing(self, folder: str, deep: bool) -> dict[str, int]:
        found = self._call(
            folder, lambda: self.system.find(folder, maxdepth=None if deep else 1, detail=True, withdirs=False)
        )
        bare = self.system._strip_protocol(folder).rstrip("/")
        return {folder + path.removeprefix(bare).lstrip("/"): info["size"] for path, info in found.items()}

    def ranges(self, url: str, starts: list[int], ends: list[int]) -> list[bytes]:
        def one(start: int, end: int) -> bytes:
            data = self.system.cat_file(url, start=start, end=end)
            if len(data) != end - start:
                size = self.system.info(url)["size"]
                text = f"{len(data)} of {end - start} bytes came from offset {start}"
                if end > size:
                    raise StorageError(url, f"{text}: the file ends at {size}", missing=True)
                raise Transient(text)
            return data

        return [self._call(url, functools.partial(one, start, end)) for start, end in zip(starts, ends, strict=True)]

    def get(self, url: str) -> bytes:
        return self._call(url, lambda: self.system.cat_file(url))

    def put(self, url: str, data: bytes) -> None:
        self._call(url, lambda: self.system.pipe_file(url, data))

    def _call(self, url: str, call: Callable[[], T]) -> T:
        def once() -> T:
            try:
                return call()
            except FileNotFoundError as error:
                raise StorageError(url, "there is no such file", missing=True) from error
            except PermissionError as error:
                raise StorageError(url, "access was denied; check the credentials") from error
            except (StorageError, Transient, ValueError, TypeError, NotImplementedError, ImportError):
                raise
            except Exception as error:  # each backend has its own network errors
                raise Transient(_first_line(error)) from error

        return persist(url, self.retries, once)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _sentence(text: str, otherwise: str) -> str:
    """What an object store's answer means and what to do about it."""
    if "NoSuchBucket" in text:
        return "there is no such bucket; check its name and the endpoint (AWS_ENDPOINT_URL)"
    if "169.254.169.254" in text or "metadata.google" in text:
        return "no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or their like"
    if "403 Forbidden" in text or "401 Unauthorized" in text:
        return "access was denied; check the credentials (AWS_ACCESS_KEY_ID, …) and what they allow"
    if "416 Range" in text:
        return BEYOND
    if code := re.search(r"<Code>(\w+)</Code>", text):
        return otherwise if code[1] == "NoSuchKey" else f"the store answered {code[1]}"
    if "connect error" in text or "dns error" in text:
        return "the server cannot be reached; check the endpoint and the network"
    if "TimedOut" in text or "timed out" in text:
        return "the server did not answer in time"
    if "body error" in text:
        return "the connection was lost in the middle of an answer"
    return otherwise
