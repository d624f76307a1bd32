"""A server for one page on this computer: files, a sentence about the network, its answers.

It listens on 127.0.0.1 alone. But any web page that a person visits may send requests there, too,
through that person's browser; so it answers only what its own page could have asked: `Host` must
be an address of this computer (a name that was made to point here would be another) and `Origin`,
where there is one, this very server.
"""

from __future__ import annotations

import json
import os
import re
import socket
import socketserver
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError

FOLDER = Path(__file__).parent
FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
METHODS = {**dict.fromkeys(FILES, "GET"), "/network": "GET", "/answer": "POST"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
MOST_BYTES = 1_000_000  # of a body
LONGEST_SIDE = 512  # of a drawing, in pixels


class Refusal(Exception):
    """A request that gets no answer: the status, and one sentence why."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


class Server(socketserver.ThreadingTCPServer):
    """Serves the page on a port of 127.0.0.1 (0: any that is free), a thread for each request.

    Args:
        about: the sentence about the network.
        answer: makes of a drawing (H, W) of whole numbers in 0 ... 255, not all 0, what the page
            shows.

    Raises UserError for a port that cannot be had.
    """

    daemon_threads = True  # none is waited for when the server ends
    request_queue_size = 128
    allow_reuse_address = os.name == "posix"  # elsewhere it would share a port that is taken

    def __init__(self, port: int, about: str, answer: Callable[[np.ndarray], dict[str, Any]]):
        self.about, self.answer = about, answer
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"port {port} cannot be used ({error}): choose another one, "
                "or --port 0 for any that is free"
            ) from error

    @property
    def port(self) -> int:
        return self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 10  # seconds of silence after which a client is given up

    def do_GET(self) -> None:
        try:
            self.reply(200, *self.content())
        except Refusal as refusal:
            self.refuse(refusal.status, str(refusal))

    do_POST = do_GET

    def content(self) -> tuple[str, bytes]:
        """The content type of what was asked for, and the bytes. Raises Refusal."""
        self.check_sender()
        path = self.path.partition("?")[0]
        if path not in METHODS:
            raise Refusal(404, f"there is no {path} here")
        if self.command != METHODS[path]:
            raise Refusal(405, f"{path} takes {METHODS[path]}, not {self.command}")
        if path in FILES:
            name, kind = FILES[path]
            return kind, (FOLDER / name).read_bytes()
        if path == "/network":
            found = json.dumps({"about": self.server.about})
        else:
            found = self.answer_to(drawing_of(self.body()))
        return "application/json", found.encode()

    def answer_to(self, drawing: np.ndarray) -> str:
        try:
            return json.dumps(self.server.answer(drawing), allow_nan=False)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise Refusal(500, f"the network could not answer ({reason[:200]})") from error

    def check_sender(self) -> None:
        host = self.headers.get("Host", "")
        if host.removesuffix(f":{self.server.port}") not in ("127.0.0.1", "localhost"):
            raise Refusal(403, f"this is http://127.0.0.1:{self.server.port}/ and no other host")
        if self.headers.get("Origin", f"http://{host}") != f"http://{host}":
            raise Refusal(403, "pages from elsewhere get no answer")

    def body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]+", length):
            raise Refusal(411, "a body needs a Content-Length")
        if len(length) > 9 or int(length) > MOST_BYTES:
            raise Refusal(413, f"a body may have at most {MOST_BYTES:,} bytes")
        return self.rfile.read(int(length))

    def reply(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        if status == 405:
            self.send_header("Allow", METHODS.get(self.path.partition("?")[0], "GET, POST"))
        self.end_headers()
        self.wfile.write(content)

    def refuse(self, status: int, sentence: str) -> None:
        """Say why, and read on for a while: closing on unread bytes would cut off what was said."""
        self.reply(status, "text/plain", f"{sentence}\n".encode())
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(1)
        for _ in range(100):
            if not self.connection.recv(65536):
                break

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class itself refuses: what is no request, and methods without a `do_`."""
        self.request_version = self.protocol_version  # else it may take the client for one of 1991
        if code == 501:
            code, message = 405, f"nothing here takes {self.command}"
        self.refuse(code, message or "this is no request that can be read")

    def log_message(self, format: str, *arguments: Any) -> None:
        """A line for every stroke of the pen would tell nobody anything."""


def drawing_of(body: bytes) -> np.ndarray:
    """The drawing (H, W) in {"drawing": [[0, 255, ...], ...]}. Raises Refusal."""
    try:
        rows = json.loads(body)["drawing"]
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise Refusal(400, 'the body must be JSON: {"drawing": [[0, 255, ...], ...]}') from error
    try:
        drawing = np.array(rows)
    except ValueError:  # rows of different lengths
        drawing = np.array(None)
    if drawing.ndim != 2 or drawing.dtype.kind != "i":
        raise Refusal(400, "a drawing must be rows of whole numbers, all rows of one length")
    if max(drawing.shape) > LONGEST_SIDE:
        raise Refusal(400, f"a drawing may be {LONGEST_SIDE} pixels high and wide at most")
    if drawing.min() < 0 or drawing.max() > 255:
        raise Refusal(400, "the numbers of a drawing must lie between 0 and 255")
    if not drawing.any():
        raise Refusal(400, "the drawing is empty")
    return drawing
