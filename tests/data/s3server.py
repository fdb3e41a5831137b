"""An S3 server on loopback (moto), with a proxy before it that counts what moves and breaks answers on demand.

The server is the program `moto_server`, beside this Python or in PATH: its client library asks for versions of packages
that differ from ours, so it lives in an environment of its own, which `make s3` builds.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REFUSALS = {"slowdown": (503, "SlowDown"), "throttle": (429, "TooManyRequests"), "error": (500, "InternalError")}
SIGNED = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"


@dataclass
class Fault:
    """kind: one of REFUSALS, denied, reset, truncate (body ends early), short (length shrunk as well) or slow."""

    kind: str
    times: int
    method: str = "GET"
    seconds: float = 0.0  # slow: wait this long before the first byte


@dataclass
class S3Server:
    """endpoint: address to give to a client. requests: (method, path, range) seen; sent: body bytes sent out;
    most: requests that were here at the same time."""

    endpoint: str = ""
    upstream: tuple[str, int] = ("", 0)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    sent: int = 0
    here: int = 0
    most: int = 0
    faults: list[Fault] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: Callable[[], None] = lambda: None

    def fail(self, kind: str, times: int = 10**9, method: str = "GET", seconds: float = 0.0) -> None:
        """Break the next `times` answers to requests of this method."""
        self.faults.append(Fault(kind, times, method, seconds))

    def calm(self) -> None:
        """No faults, counters at zero."""
        with self.lock:
            self.faults, self.requests, self.sent, self.most = [], [], 0, 0

    def count(self, method: str) -> int:
        return sum(seen[0] == method for seen in self.requests)

    def note(self, method: str, path: str, span: str) -> Fault | None:
        """Count a request; the fault that it is to suffer."""
        with self.lock:
            self.requests.append((method, path, span))
            self.here += 1
            self.most = max(self.most, self.here)
            for fault in self.faults:
                if fault.method == method and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def put(self, path: str, data: bytes = b"") -> None:
        """Make /bucket or /bucket/key, behind the proxy's back."""
        upstream = http.client.HTTPConnection(*self.upstream, timeout=30)
        upstream.request("PUT", path, data, {"Authorization": SIGNED, "x-amz-acl": "public-read"})
        answer = upstream.getresponse()
        assert answer.status == 200, answer.read()
        upstream.close()


def program() -> str | None:
    """The server's executable, or None."""
    beside = [Path(sys.prefix) / "bin", Path(sys.prefix) / "s3" / "bin"]
    return shutil.which("moto_server", path=os.pathsep.join(map(str, beside))) or shutil.which("moto_server")


def start() -> S3Server:
    """Both servers on free ports; `stop` ends them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    moto = subprocess.Popen(
        [program(), "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            if moto.poll() is not None or time.monotonic() > until:
                moto.kill()
                raise RuntimeError("moto_server did not start") from None
            time.sleep(0.05)
    server = S3Server(upstream=("127.0.0.1", port))
    proxy = _Proxy(("127.0.0.1", 0), _handler(server))
    threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    server.endpoint = f"http://127.0.0.1:{proxy.server_port}"

    def stop() -> None:
        proxy.shutdown()
        proxy.server_close()
        moto.kill()
        moto.wait()

    server.stop = stop
    return server


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_) -> None:
        """Clients that gave up are part of the tests."""


def _handler(server: S3Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_) -> None:
            pass

        def relay(self) -> None:
            fault = server.note(self.command, self.path, self.headers.get("Range", ""))
            try:
                self.relay_with(fault)
            finally:
                with server.lock:
                    server.here -= 1

        def relay_with(self, fault: Fault | None) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kind = fault.kind if fault else ""
            if kind in REFUSALS or kind == "denied":
                status, code = REFUSALS.get(kind, (403, "AccessDenied"))
                return self.answer(status, [], f"<Error><Code>{code}</Code><Message>planted</Message></Error>".encode())
            if kind == "slow":
                time.sleep(fault.seconds)
            upstream = http.client.HTTPConnection(*server.upstream, timeout=30)
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            data, headers = answer.read(), answer.getheaders()
            upstream.close()
            return self.answer(answer.status, headers, data, kind)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = relay

        def answer(self, status: int, headers: list[tuple[str, str]], data: bytes, kind: str = "") -> None:
            if kind == "short":
                data = data[: len(data) // 2]
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            length = dict((name.lower(), value) for name, value in headers).get("content-length", "0")
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(data)))
            self.end_headers()
            half = data[: len(data) // 2] if kind in ("reset", "truncate") else data
            with server.lock:
                server.sent += len(half)
            self.wfile.write(half)
            self.wfile.flush()
            if kind == "reset":
                time.sleep(0.02)  # let the first half arrive
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            if kind in ("reset", "truncate"):
                self.close_connection = True

    return Handler
