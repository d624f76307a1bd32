"""Downloads that are cut, spoilt, stopped or killed: the whole file under its name, or nothing.

Silent, missing, looping and endless mirrors, and archives, are in tests/utils/data.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest

import main
from tests.faults import TIMES
from tests.utils.data.helpers import (
    Answer,
    Server,
    good,
    md5,
    mnist_files,
    mnist_source,
    running_server,
    status,
)
from tests.utils.data.test_download import cifar_archive, cifar_source, files_in
from utils.data import DataError, download, load
from utils.data.download import fetch
from utils.data.sources import (
    CIFAR10,
    FASHION_MNIST,
    SOURCES,
    TINY_SHAKESPEARE,
    Remote,
    Source,
)
from utils.experiments.registry import ROOT
from utils.experiments.results import load as load_result

TEXT = np.random.default_rng(0).integers(97, 123, 200_000, np.uint8).tobytes()
Record = Callable[[str, object], None]


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running_server() as running:
        yield running


def text_source(*mirrors: str) -> dict[str, Source]:
    """Tiny Shakespeare as TEXT, from these mirrors."""
    remote = Remote("input.txt", md5(TEXT), len(TEXT))
    official = {"input.txt": md5(TEXT)}
    source = replace(TINY_SHAKESPEARE, mirrors=mirrors, remotes=(remote,), official=official)
    return {"tinyshakespeare": source}


# --- what a mirror may do -------------------------------------------------------------------


def raw(words: bytes, reset: bool = False) -> Answer:
    """These bytes and nothing else; then the connection ends, or is reset."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(words)
        request.close_connection = True
        if reset:
            linger = (1).to_bytes(4, sys.byteorder) + bytes(4)
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            request.connection.close()

    return answer


def answer_of(content: bytes, *headers: str, first: str = "HTTP/1.0 200 OK") -> bytes:
    return "\r\n".join((first, *headers, "", "")).encode() + content


LENGTH = f"Content-Length: {len(TEXT)}"
HALF = TEXT[: len(TEXT) // 2]
BAD: dict[str, Answer] = {
    "closed without a word": raw(b""),
    "no HTTP": raw(b"\x00\x01 welcome \xff\xfe\r\n\r\n"),
    "reset half-way": raw(answer_of(HALF, LENGTH), reset=True),
    "one byte short": good(TEXT[:-1], declared=len(TEXT)),
    "fewer bytes declared than there are": good(TEXT, declared=5),
    "a length that is no number, and half": raw(answer_of(HALF, "Content-Length: many")),
    "a negative length, and half": raw(answer_of(HALF, "Content-Length: -1")),
    "no length, and half": raw(answer_of(HALF)),
    "the last byte changed": good(TEXT[:-1] + b"!"),
    "one byte more": good(TEXT + b"!"),
    "another part than was asked for": raw(
        answer_of(HALF, f"Content-Length: {len(HALF)}", first="HTTP/1.0 206 Partial Content")
    ),
    "compressed, but it is not": raw(answer_of(TEXT, "Content-Encoding: gzip")),
    "cut between chunks": raw(
        answer_of(b"8\r\nabcdefgh\r\n", "Transfer-Encoding: chunked", first="HTTP/1.1 200 OK")
    ),
    "no content": status(204),
    "redirect to a file of this computer": status(302, "file:///etc/passwd"),
    "redirect to nowhere": status(302, "http://127.0.0.1:9/input.txt"),
    "an error page with status 200": good(b"<!DOCTYPE html><title>Quota exceeded</title>"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_mirror_is_followed_by_the_next_and_the_last_by_one_sentence(
    web: Server, tmp_path: Path, case: str, record_property: Record
) -> None:
    record_property("faults injected", 2)
    bad = web.misbehave("bad", BAD[case], ["input.txt"])
    with pytest.raises(DataError) as error:
        load("tinyshakespeare", "real", root=tmp_path, sources=text_source(bad))
    message = str(error.value)
    assert "input.txt failed from every mirror" in message and bad in message
    assert len(message.splitlines()) == 1 and "object at 0x" not in message
    assert files_in(tmp_path) == set()

    sources = text_source(bad, web.serve("good", {"input.txt": TEXT}))
    data = load("tinyshakespeare", "real", root=tmp_path, sources=sources)
    assert data.provenance == "official" and data.text.encode() == TEXT
    assert files_in(tmp_path) == {"input.txt"}


# --- what a run makes of it -----------------------------------------------------------------


def test_without_any_mirror_a_run_takes_the_embedded_set_or_says_one_sentence(
    web: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    record_property: Record,
) -> None:
    """HYBRID goes on with the clothes that come with the course, `--data real` does not."""
    bad = web.misbehave("bad", BAD["reset half-way"], [r.name for r in FASHION_MNIST.remotes])
    monkeypatch.setitem(SOURCES, "fashion_mnist", replace(FASHION_MNIST, mirrors=(bad, bad)))
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path / "data"))
    record_property("faults injected", 4)

    def call(*words: str) -> int:
        sizes = ["--samples", "100", "--epochs", "1", "--set", "seeds=1"]
        place = ["--results", str(tmp_path / "results")]
        monkeypatch.setattr(sys, "argv", ["main.py", "fashion_mlp", *words, *sizes, *place])
        return main.main()

    folder = tmp_path / "results" / "section1" / "fashion_mlp"
    assert call("--data", "real") == 2
    out, err = capsys.readouterr()
    assert "FAILED: Fashion-MNIST could not be downloaded" in out and "Traceback" not in out + err
    assert not (folder / "result.json").exists()
    with pytest.warns(UserWarning, match=r"USING .*: Fashion-MNIST could not be downloaded"):
        assert call("--mode", "hybrid") == 0
    assert load_result(folder).info["data"]["fashion_mnist"]["provenance"] == "embedded stand-in"
    assert files_in(tmp_path / "data") == set()


# --- stopped and killed ---------------------------------------------------------------------


def test_ctrl_c_half_way_leaves_whole_files_only_and_the_next_run_fetches_the_rest(
    web: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    source, served = mnist_source((f"{web.url}/good/",), mnist_files())
    sources = {"mnist": source}
    web.serve("good", served)
    *_, third, fourth = served

    def stop(self: download._Downloader, received: int) -> None:
        if self.remote.name == third:
            raise KeyboardInterrupt

    record_property("faults injected", 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download._Downloader, "_show", stop)
        load("mnist", download=True, root=tmp_path, sources=sources)
    assert files_in(tmp_path) == {*served} - {third, fourth}
    with pytest.raises(DataError, match=r"is incomplete, it lacks t10k-images[^:]*: add what"):
        load("mnist", root=tmp_path, sources=sources)  # as in QUICK
    web.asked.clear()
    assert load("mnist", download=True, root=tmp_path, sources=sources).provenance == "official"
    assert web.asked == [f"/good/{third}", f"/good/{fourth}"]


KILLED = """
import os, sys
from pathlib import Path
from tests.faults import test_downloads as faults
{before}
print(faults.load(sys.argv[1], "real", root=sys.argv[2], sources={sources}).provenance)
"""


def child(before: str, sources: str, *words: str) -> subprocess.Popen[bytes]:
    """A process that downloads; it runs `before` first."""
    code = KILLED.format(before=before, sources=sources)
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def sends(count: int, arrived: threading.Event) -> Answer:
    """So many of the bytes, and then silence until the other side is gone."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(answer_of(TEXT[:count], LENGTH))
        arrived.set()
        request.connection.settimeout(120)
        try:
            request.connection.recv(1)
        except OSError:
            pass
        request.close_connection = True

    return answer


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.parametrize("share", np.linspace(0.5, 1, 2 * TIMES).tolist())
def test_kill_9_half_way_leaves_nothing_under_the_name(
    web: Server, tmp_path: Path, share: float, record_property: Record
) -> None:
    arrived = threading.Event()
    count = min(round(share * len(TEXT)), len(TEXT) - 1)
    mirror = web.misbehave("slow", sends(count, arrived), ["input.txt"])
    with child("", f"faults.text_source({mirror!r})", "tinyshakespeare", str(tmp_path)) as process:
        assert arrived.wait(300), process.communicate()
        process.kill()
        process.communicate()
    assert process.returncode == -9
    record_property("faults injected", 1)
    assert not list(tmp_path.rglob("input.txt"))
    sources = text_source(web.serve("good", {"input.txt": TEXT}))
    assert load("tinyshakespeare", root=tmp_path, sources=sources).provenance != "official"
    data = load("tinyshakespeare", download=True, root=tmp_path, sources=sources)
    assert data.provenance == "official" and data.text.encode() == TEXT


DIES_IN_UNPACK = """
rename, renamed = os.replace, []
def dies(source, target):
    if Path(target).parent.name == "cifar-10-batches-py":
        renamed.append(target)
        if len(renamed) == 4:
            os.kill(os.getpid(), 9)
    rename(source, target)
os.replace = dies
"""


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_kill_9_while_unpacking_leaves_whole_files_and_the_next_run_the_rest(
    web: Server, tmp_path: Path, record_property: Record
) -> None:
    archive, original, root = cifar_archive(), tmp_path / "original", tmp_path / "data"
    original.write_bytes(archive)
    mirrors = (web.serve("good", {"cifar-10-python.tar.gz": archive}),)
    sources = f"dict(cifar10=faults.cifar_source(Path({str(original)!r}).read_bytes(), {mirrors}))"
    with child(DIES_IN_UNPACK, sources, "cifar10", str(root)) as process:
        _, err = process.communicate(timeout=300)
    assert process.returncode == -9, err
    record_property("faults injected", 1)
    there = sorted(path.name for path in (root / CIFAR10.folder).iterdir())
    assert there == list(CIFAR10.files[:3])
    data = load(
        "cifar10", download=True, root=root,
        sources={"cifar10": cifar_source(archive, mirrors)},
    )  # fmt: skip
    assert data.provenance == "official"
    assert len(web.asked) == 1, "the archive had been kept"


# --- several at once ------------------------------------------------------------------------


@pytest.mark.parametrize("late", ["removing the archive", "opening the archive"])
def test_two_that_download_the_same_archive_at_once_both_succeed(
    web: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: str, record_property: Record
) -> None:
    """As the processes of torchrun do; one finds that the other has removed the archive."""
    archive = cifar_archive()
    both, other_done = threading.Barrier(2, timeout=120), threading.Event()
    unpack, failures = download.unpack, list[Exception]()

    def when_both_ask(request: BaseHTTPRequestHandler) -> None:
        both.wait()
        good(archive)(request)

    mirror = web.misbehave("good", when_both_ask, ["cifar-10-python.tar.gz"])
    source = cifar_source(archive, (mirror,))

    def unpack_late(*arguments: object) -> None:
        if late == "opening the archive" and threading.current_thread().name == "second":
            other_done.wait(120)
        unpack(*arguments)  # type: ignore[arg-type]
        if late == "removing the archive":
            both.wait()

    def work() -> None:
        try:
            fetch(source, tmp_path, CIFAR10.files)
        except Exception as error:
            failures.append(error)
        other_done.set()

    monkeypatch.setattr(download, "unpack", unpack_late)
    threads = [threading.Thread(target=work, name=name) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record_property("faults injected", 1)
    assert not failures
    assert files_in(tmp_path) == set(CIFAR10.files)
    assert load("cifar10", root=tmp_path, sources={"cifar10": source}).provenance == "official"
