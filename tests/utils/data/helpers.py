"""Small but valid data sets on disk, and a web server that misbehaves on request."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from utils.data.sources import CIFAR10, CIFAR100, MNIST, Remote, Source

Answer = Callable[[BaseHTTPRequestHandler], None]


def idx_bytes(array: np.ndarray) -> bytes:
    """A uint8 array as an IDX file."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def mnist_files(seed: int = 0) -> dict[str, bytes]:
    """The four files of a set of 20 + 10 random images."""
    rng = np.random.default_rng(seed)
    arrays = []
    for n in (20, 10):
        arrays.append(rng.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        arrays.append(np.arange(n, dtype=np.uint8) % 10)
    return {file: idx_bytes(array) for file, array in zip(MNIST.files, arrays)}


def batch(n: int, seed: int, label_key: str = "labels", classes: int = 10) -> dict[str, object]:
    """The content of a CIFAR batch, as Python 3 would write it."""
    rng = np.random.default_rng(seed)
    return {
        "batch_label": "a batch",
        "data": rng.integers(0, 256, (n, 3072), dtype=np.uint8),
        label_key: [int(label) for label in rng.integers(0, classes, n)],
        "filenames": [f"image_{i}.png" for i in range(n)],
    }


def cifar10_files() -> dict[str, bytes]:
    """The seven files of a CIFAR-10 of four images a batch."""
    files = {
        file: pickle.dumps(batch(4, seed), protocol=2)
        for seed, file in enumerate(CIFAR10.files[:-1])
    }
    names = {"label_names": [f"class {i}" for i in range(10)]}
    return {**files, "batches.meta": pickle.dumps(names, protocol=2)}


def cifar100_files() -> dict[str, bytes]:
    """The three files of a CIFAR-100 of four images in each part."""
    names = {"fine_label_names": [f"class {i}" for i in range(100)]}
    contents = [batch(4, 1, "fine_labels", 100), batch(4, 2, "fine_labels", 100), names]
    return {file: pickle.dumps(content) for file, content in zip(CIFAR100.files, contents)}


def write(root: Path, source: Source, files: dict[str, bytes]) -> Path:
    """Put files where a source has them; returns that folder."""
    folder = root / source.folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def python2_batch(pixels: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2 and an early NumPy wrote it: 8-bit strings, `numpy.core`."""
    n = len(pixels)
    shape = b"(" + b"J" + struct.pack("<i", n) + b"M" + struct.pack("<H", 3072) + b"t"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    dtype += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    array += b"(K\x01" + shape + dtype + b"\x89"
    array += b"T" + struct.pack("<i", pixels.size) + pixels.tobytes() + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + numbers + b"u."


def md5(content: bytes) -> str:
    return "md5:" + hashlib.md5(content).hexdigest()


def mnist_source(mirrors: tuple[str, ...], files: dict[str, bytes]) -> tuple[Source, dict]:
    """MNIST with these files and mirrors, and what a good mirror serves."""
    served = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in files.items()}
    remotes = tuple(Remote(name, md5(content), len(content)) for name, content in served.items())
    official = {name: md5(content) for name, content in {**files, **served}.items()}
    return replace(MNIST, mirrors=mirrors, remotes=remotes, official=official), served


class Server:
    """A web server on this machine. `answers`: path -> what to do; `asked`: paths, in order."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.closing = threading.Event()
        self.url = ""

    def serve(self, folder: str, files: dict[str, bytes]) -> str:
        """Serve files below a folder; returns the address of that folder."""
        for name, content in files.items():
            self.answers[f"/{folder}/{name}"] = good(content)
        return f"{self.url}/{folder}/"

    def misbehave(self, folder: str, answer: Answer, names: list[str]) -> str:
        """Give the same bad answer to every file of a folder; returns its address."""
        for name in names:
            self.answers[f"/{folder}/{name}"] = answer
        return f"{self.url}/{folder}/"

    def hang(self, _request: BaseHTTPRequestHandler) -> None:
        """Never answer (until the test ends)."""
        self.closing.wait(10)


def good(content: bytes, declared: int | None = None) -> Answer:
    """200 and the content, of which Content-Length may claim something else."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(declared or len(content)))
        request.end_headers()
        request.wfile.write(content)

    return answer


def status(code: int, location: str = "") -> Answer:
    """A status without content, and perhaps another address to go to."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        if location:
            request.send_header("Location", location)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def endless(request: BaseHTTPRequestHandler) -> None:
    """200 and bytes until the other side hangs up."""
    request.send_response(200)
    request.end_headers()
    try:
        while True:
            request.wfile.write(bytes(2**16))
    except OSError:
        pass


@contextmanager
def running_server() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked.append(self.path)
            server.answers.get(self.path, status(404))(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        server.url = f"http://127.0.0.1:{web.server_port}"
        thread = threading.Thread(target=web.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            web.shutdown()
            thread.join()
