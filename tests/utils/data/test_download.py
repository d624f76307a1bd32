"""Downloads from mirrors that fail in every way: a verified file, or nothing at all."""

from __future__ import annotations

import io
import sys
import tarfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.utils.data.helpers import (
    Answer,
    Server,
    cifar10_files,
    endless,
    good,
    md5,
    mnist_files,
    mnist_source,
    running_server,
    status,
    write,
)
from utils.data import DataError, load
from utils.data.download import fetch, unpack
from utils.data.sources import CIFAR10, MNIST, SOURCES, TINY_SHAKESPEARE, Remote, Source

TIMEOUT = (1.0, 0.2)
PACKED = [f"{file}.gz" for file in MNIST.files]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running_server() as running:
        yield running


def files_in(root: Path) -> set[str]:
    """All files below a folder, hidden and temporary ones too."""
    return {path.name for path in root.rglob("*") if not path.is_dir()}


def test_download(server: Server, tmp_path: Path) -> None:
    source, served = mnist_source((f"{server.url}/good/",), mnist_files())
    server.serve("good", served)
    data = load("mnist", "real", root=tmp_path, sources={"mnist": source})
    assert data.provenance == "official"
    assert data.description == "MNIST (official files)"
    np.testing.assert_array_equal(data.train_y, np.arange(20) % 10)
    assert files_in(tmp_path) == set(PACKED)
    assert len(server.asked) == 4
    load("mnist", "real", download=True, root=tmp_path, sources={"mnist": source})
    assert len(server.asked) == 4, "a complete copy needs no request"


def bad_answers(server: Server) -> dict[str, tuple[Answer, str]]:
    """What a mirror may do instead of sending the file, and what is said about it."""
    html = b"<html>quota exceeded</html>"
    loop = f"{server.url}/bad/{PACKED[0]}"
    return {
        "wrong bytes": (good(b"\x1f\x8bwrong"), "checksum differs"),
        "HTML with status 200": (good(html), "checksum differs"),
        "nothing": (good(b""), "checksum differs"),
        "cut half-way": (good(b"\x1f\x8b half", declared=100), "broke off"),
        "not found": (status(404), "HTTP status 404"),
        "broken": (status(503), "HTTP status 503"),
        "silent": (server.hang, "no answer within"),
        "redirect loop": (status(302, loop), "redirects without end"),
        "redirect to nonsense": (status(302, "http://[::"), "failed from every mirror"),
        "endless": (endless, "more than the"),
    }


CASES = list(bad_answers(Server()))


@pytest.mark.parametrize("case", CASES)
def test_next_mirror_is_used(server: Server, tmp_path: Path, case: str) -> None:
    mirrors = (f"{server.url}/bad/", f"{server.url}/good/")
    source, served = mnist_source(mirrors, mnist_files())
    server.misbehave("bad", bad_answers(server)[case][0], PACKED[:1])
    server.serve("bad", {name: served[name] for name in PACKED[1:]})
    server.serve("good", served)
    fetch(source, tmp_path, MNIST.files, TIMEOUT)
    assert server.asked[0] == f"/bad/{PACKED[0]}"
    assert server.asked.count(f"/good/{PACKED[0]}") == 1
    assert len([path for path in server.asked if path.startswith("/good/")]) == 1
    assert files_in(tmp_path) == set(PACKED)
    assert load("mnist", root=tmp_path, sources={"mnist": source}).provenance == "official"


@pytest.mark.parametrize("case", CASES)
def test_all_mirrors_fail(server: Server, tmp_path: Path, case: str) -> None:
    mirrors = (f"{server.url}/bad/", f"{server.url}/missing/")
    source, _ = mnist_source(mirrors, mnist_files())
    answer, reason = bad_answers(server)[case]
    server.misbehave("bad", answer, PACKED)
    sources = {"mnist": source}
    with pytest.raises(DataError, match=reason) as error:
        load("mnist", "real", root=tmp_path, sources=sources, timeout=TIMEOUT)
    message = str(error.value)
    for part in ("MNIST", *mirrors, str(tmp_path / MNIST.folder), PACKED[0], "404"):
        assert part in message
    assert "\n" not in message
    assert files_in(tmp_path) == set()


def test_auto_falls_back_with_a_warning(server: Server, tmp_path: Path) -> None:
    source, _ = mnist_source((f"{server.url}/missing/",), mnist_files())
    with pytest.warns(UserWarning, match="USING HANDWRITTEN DIGITS.*HTTP status 404") as caught:
        data = load("mnist", download=True, root=tmp_path, sources={"mnist": source})
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert data.provenance == "embedded stand-in"
    assert files_in(tmp_path) == set()


def test_no_server_at_all(tmp_path: Path) -> None:
    source, _ = mnist_source(("http://127.0.0.1:9/",), mnist_files())
    with pytest.raises(DataError, match="no connection"):
        load("mnist", "real", root=tmp_path, sources={"mnist": source}, timeout=TIMEOUT)


def test_auto_asks_nobody_without_leave(server: Server, tmp_path: Path) -> None:
    source, served = mnist_source((f"{server.url}/good/",), mnist_files())
    server.serve("good", served)
    sources = {"mnist": source}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load("mnist", root=tmp_path, sources=sources).provenance == "embedded stand-in"
        load("mnist", "embedded", download=True, root=tmp_path, sources=sources)
    assert server.asked == []


def test_only_what_is_missing_is_fetched(server: Server, tmp_path: Path) -> None:
    files = mnist_files()
    source, served = mnist_source((f"{server.url}/good/",), files)
    server.serve("good", served)
    write(tmp_path, MNIST, {name: files[name] for name in MNIST.files[:3]})
    data = load("mnist", download=True, root=tmp_path, sources={"mnist": source})
    assert data.provenance == "official"
    assert server.asked == [f"/good/{PACKED[3]}"]


def test_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    source, served = mnist_source((f"{server.url}/good/",), mnist_files())
    server.serve("good", served)
    (tmp_path / "MNIST").write_text("a file where a folder should be")
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch(source, tmp_path, MNIST.files, TIMEOUT)


def test_nothing_is_printed_into_a_pipe(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, served = mnist_source((f"{server.url}/good/",), mnist_files())
    server.serve("good", served)
    fetch(source, tmp_path, MNIST.files, TIMEOUT)
    assert capfd.readouterr() == ("", "")


def test_percentage_on_a_terminal(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    source, served = mnist_source((f"{server.url}/good/",), mnist_files())
    server.serve("good", served)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fetch(source, tmp_path, MNIST.files[:1], TIMEOUT)
    assert capsys.readouterr().err == f"\r{PACKED[0]}: 100%\n"


def test_text(server: Server, tmp_path: Path) -> None:
    text = b"First Citizen:\n"
    remote = Remote("input.txt", md5(text), len(text))
    source = replace(
        TINY_SHAKESPEARE,
        mirrors=(server.serve("good", {"input.txt": text}),),
        remotes=(remote,),
        official={"input.txt": md5(text)},
    )
    data = load("tinyshakespeare", "real", root=tmp_path, sources={"tinyshakespeare": source})
    assert (data.text, data.provenance) == ("First Citizen:\n", "official")


def packed(members: dict[str, bytes]) -> bytes:
    """A .tar.gz with these members, by whatever names."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def cifar_archive() -> bytes:
    members = {f"{CIFAR10.folder}/{name}": content for name, content in cifar10_files().items()}
    return packed({f"{CIFAR10.folder}/readme.html": b"<html>", **members})


def cifar_source(archive: bytes, mirrors: tuple[str, ...]) -> Source:
    remote = Remote("cifar-10-python.tar.gz", md5(archive), len(archive))
    official = {name: md5(content) for name, content in cifar10_files().items()}
    return replace(CIFAR10, mirrors=mirrors, remotes=(remote,), official=official)


def test_archive(server: Server, tmp_path: Path) -> None:
    archive = cifar_archive()
    source = cifar_source(archive, (f"{server.url}/missing/", f"{server.url}/good/"))
    server.serve("good", {"cifar-10-python.tar.gz": archive})
    data = load("cifar10", download=True, root=tmp_path, sources={"cifar10": source})
    assert data.provenance == "official"
    assert files_in(tmp_path) == set(CIFAR10.files), "only the expected members; no archive"
    assert len(server.asked) == 2


def test_archive_that_is_there_already(server: Server, tmp_path: Path) -> None:
    archive = cifar_archive()
    source = cifar_source(archive, (f"{server.url}/missing/",))
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive)
    folder = write(tmp_path, CIFAR10, {"data_batch_1": b"mine"})
    fetch(source, tmp_path, CIFAR10.files[1:], TIMEOUT)
    assert server.asked == []
    assert files_in(tmp_path) == {*CIFAR10.files, "cifar-10-python.tar.gz"}
    assert (folder / "data_batch_1").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["../evil", "/evil", "cifar-10-batches-py/../../evil"])
def test_archive_that_leads_out_is_refused(server: Server, tmp_path: Path, name: str) -> None:
    members = {f"{CIFAR10.folder}/{file}": b"x" for file in CIFAR10.files}
    archive = packed({**members, name: b"evil"})
    source = cifar_source(archive, (server.serve("bad", {"cifar-10-python.tar.gz": archive}),))
    root = tmp_path / "a" / "data"
    with pytest.raises(DataError, match="leads out of it"):
        fetch(source, root, CIFAR10.files, TIMEOUT)
    assert files_in(tmp_path) == {"cifar-10-python.tar.gz"}


def test_archive_with_a_link_in_place_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("folder/file")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(DataError, match="lacks file"):
        unpack(path, tmp_path / "folder", ("file",))
    assert files_in(tmp_path) == {"a.tar.gz"}


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9])
def test_damaged_archive_leaves_no_files(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.tar.gz"
    archive = cifar_archive()
    path.write_bytes(archive[: int(share * len(archive))])
    with pytest.raises(DataError, match=r"cannot be unpacked|lacks"):
        unpack(path, tmp_path / CIFAR10.folder, CIFAR10.files)
    assert files_in(tmp_path) == {"a.tar.gz"}


def test_table_of_sources_is_complete() -> None:
    for source in SOURCES.values():
        assert source.mirrors
        assert all(mirror.endswith("/") for mirror in source.mirrors)
        assert set(source.files) <= set(source.official)
        checksums = [*source.official.values(), *(remote.checksum for remote in source.remotes)]
        for checksum in checksums:
            algorithm, digits = checksum.split(":")
            assert len(bytes.fromhex(digits)) == {"md5": 16, "sha256": 32}[algorithm]
        assert len(set(source.official.values())) == len(source.official), "none copied twice"
        for remote in source.remotes:
            assert remote.size > 1000
            assert source.archived or remote.name.removesuffix(".gz") in source.files


@pytest.mark.network
@pytest.mark.parametrize("mirror", MNIST.mirrors)
def test_real_mirror(tmp_path: Path, mirror: str) -> None:
    source = replace(MNIST, mirrors=(mirror,))
    data = load("mnist", "real", root=tmp_path, sources={"mnist": source})
    assert data.provenance == "official"
