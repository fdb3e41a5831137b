"""Copying remote shards into the cache before they are needed."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import BinaryIO

from vstrain.data.cache import Cache
from vstrain.data.remote import PART, place

log = logging.getLogger("vstrain")


class Stopped(Exception):
    """close() came in the middle of a copy."""


class Prefetcher:
    """The thread that copies wanted shards into the cache, in order."""

    def __init__(self, cache: Cache, retries: int, timeout: float):
        self.cache, self.retries, self.timeout = cache, retries, timeout
        self.news, self.queue, self.room, self.stopped = threading.Condition(), deque(), 0, False
        self.thread = threading.Thread(target=self._run, name="storage-prefetch", daemon=True)
        self.thread.start()

    def want(self, urls: list[str]) -> None:
        for url in reversed(urls):  # of the copies that are there, the one needed soonest is to go last
            self.cache.path(url)
        with self.news:
            self.queue, self.room = deque(urls), self.cache.max_bytes
            self.news.notify()

    def stop(self) -> None:
        with self.news:
            self.stopped = True
            self.news.notify()
        self.thread.join(5)

    def _run(self) -> None:
        while True:
            with self.news:
                self.news.wait_for(lambda: self.queue or self.stopped)
                if self.stopped:
                    return
                url, queue = self.queue.popleft(), self.queue
            try:
                backend, path = place(url, self.retries, self.timeout)
                size, etag = backend.about(path)
                with self.news:
                    if queue is not self.queue:  # another list came meanwhile
                        continue
                    self.room -= size
                    if self.room < 0:  # more would push out what is needed sooner
                        self.queue = deque()
                        continue
                self.cache.fetch(url, lambda file: self._copy(backend, path, size, file), size, etag, wait=False)  # noqa: B023
            except Stopped:
                return
            except Exception as error:  # whatever it is, readers can do without the copy
                log.warning(f"{error}; this shard is read without a copy")

    def _copy(self, backend, path: str, size: int, file: BinaryIO) -> None:
        for begin in range(0, size, 4 * PART):
            if self.stopped:
                raise Stopped
            starts = list(range(begin, min(begin + 4 * PART, size), PART))
            for part in backend.ranges(path, starts, [min(start + PART, size) for start in starts]):
                file.write(part)
