"""The HTTP of the loopback Hub: reads requests completely, records them, lets faults disturb them,
answers with keep-alive.
"""

import re
import socket
import struct
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from loopback.routes import Answer, Request, respond
from loopback.store import Refusal

KEPT = 2**20  # bytes of a request's body that are kept


@dataclass
class Record:
    """One request as it arrived; `status` is None until it was answered, 0 where the connection was
    cut instead.

    `length` counts what was read of the body, `received` says whether that is all, `body` is the
    beginning of it.
    """

    method: str
    path: str
    authorization: str | None
    headers: dict[str, str]
    length: int = 0
    body: bytes = b""
    status: int | None = None
    received: bool = False


@dataclass
class Fault:
    """See `HubServer.fault`."""

    method: str | None
    path: str
    status: int | None = None
    left: int | None = 1
    headers: dict | None = None
    cut_after: int | None = None
    reset: bool = False
    delay: float = 0
    slow: tuple[int, float] | None = None
    corrupt: bool = False
    when: str = "before"

    def refusal(self) -> Answer:
        """The error to answer with."""
        default = {"Retry-After": "1"} if self.status == 429 else None
        return Answer.refusal(
            Refusal(
                self.status or 500,
                "A fault that the test asked for",
                headers=self.headers or default,
            )
        )

    def takes(self, method: str, path: str) -> bool:
        """Whether the request is one of those to disturb; it counts."""
        if (
            self.left == 0
            or not re.search(self.path, path)
            or (self.method and not re.fullmatch(self.method, method))
        ):
            return False
        self.left = None if self.left is None else self.left - 1
        return True


class Cut(Exception):
    """The connection is to be closed at once."""


def flipped(data: bytes) -> bytes:
    """The same number of bytes, some of them wrong."""
    middle = len(data) // 2
    return data[:middle] + bytes(b ^ 255 for b in data[middle : middle + 8]) + data[middle + 8 :]


class Handler(BaseHTTPRequestHandler):
    """Reads a request, disturbs it if a fault says so, answers."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "Listener"

    def answer(self) -> None:
        """Every method."""
        hub = self.server.hub
        record = Record(
            self.command, self.path, self.headers.get("Authorization"), dict(self.headers.items())
        )
        self.server.requests.append(record)
        fault = hub.disturbance(self.command, self.path)
        time.sleep(fault.delay if fault else 0)
        try:
            body = self.body(fault, record)
            record.length, record.body, record.received = len(body), body[:KEPT], True
            self.send(self.decide(fault, body), fault, record)
        except Cut:
            record.status = record.status or 0
            self.close_connection = True
            if fault and fault.reset:
                # closed with a reset, which also throws away what the client has not read yet
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = answer

    def body(self, fault: Fault | None, record: Record) -> bytes:
        """The request's body, of known length or in chunks; cut or corrupted by a fault."""
        length, limit = int(self.headers.get("Content-Length") or 0), None
        if fault and fault.cut_after is not None and fault.when == "before":
            limit = fault.cut_after
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            data = self.chunks(limit)
        else:
            data = self.rfile.read(length if limit is None else min(limit, length))
        record.length = len(data)
        if limit is not None and self.command in ("POST", "PUT", "PATCH"):
            raise Cut
        return flipped(data) if fault and fault.corrupt and data else data

    def chunks(self, limit: int | None) -> bytes:
        """A body of unknown length."""
        data = b""
        while (size := int(self.rfile.readline().split(b";")[0] or b"0", 16)) and (
            limit is None or len(data) < limit
        ):
            data += self.rfile.read(size)
            self.rfile.readline()
        if not size:
            self.rfile.readline()
        return data

    def decide(self, fault: Fault | None, body: bytes) -> Answer:
        """The answer of the route, of the fault, or of a bug in here."""
        hub = self.server.hub
        if fault and fault.status and fault.when == "before":
            return fault.refusal()
        try:
            found = respond(hub, Request(self.command, self.path, self.headers, body))
        except Exception:  # noqa: BLE001  the client would wait and retry: say what is wrong
            hub.errors.append(f"{self.command} {self.path}\n{traceback.format_exc()}")
            return Answer.refusal(Refusal(500, traceback.format_exc(limit=-1).splitlines()[-1]))
        if fault and fault.status:
            return fault.refusal()
        corrupt = fault and fault.corrupt and not body and found.status < 300
        return Answer(
            flipped(found.body) if corrupt else found.body,
            found.status,
            found.headers | (fault.headers or {} if fault else {}),
        )

    def send(self, found: Answer, fault: Fault | None, record: Record) -> None:
        """Write the answer, or as much of it as a fault lets through."""
        record.status = found.status
        self.send_response(found.status)
        for name, value in ({"Content-Length": str(len(found.body))} | found.headers).items():
            self.send_header(name, " ".join(str(value).splitlines()))
        if fault and fault.status:
            self.send_header("Connection", "close")
        head, body = self.head(), b"" if self.command == "HEAD" else found.body
        if fault and fault.cut_after is not None:
            self.wfile.write(
                (head + body[: fault.cut_after])
                if fault.cut_after or fault.when == "before"
                else b""
            )
            if fault.reset:
                time.sleep(0.05)  # for the client to read what was sent
            raise Cut
        if fault and fault.slow:
            size, seconds = fault.slow
            self.wfile.write(head)
            for start in range(0, len(body), size):
                time.sleep(seconds)
                self.wfile.write(body[start : start + size])
            return
        self.wfile.write(head + body if len(body) < 2**16 else head)
        if len(body) >= 2**16:
            self.wfile.write(body)

    def head(self) -> bytes:
        """The status line and headers that were collected."""
        collected = b"".join([*self._headers_buffer, b"\r\n"])
        self._headers_buffer = []
        return collected

    def log_message(self, *_: object) -> None:
        """Nothing: `requests` is the log."""


class Listener(ThreadingHTTPServer):
    """One port. It closes living connections when it stops, so that a stopped server is really
    down.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, hub: Any, port: int = 0):
        super().__init__(("127.0.0.1", port), Handler)
        self.hub, self.requests, self.connections = hub, [], set()
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def process_request(self, request: socket.socket, client_address: object) -> None:
        """Remember the connection."""
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:
        """Forget it; without a goodbye if a fault wants a reset."""
        self.connections.discard(request)
        if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER):
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no error."""
        error = traceback.format_exc()
        if not isinstance(sys.exception(), OSError):
            self.hub.errors.append(error)

    def stop(self) -> None:
        """No new connections, no old ones."""
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.thread.join()
