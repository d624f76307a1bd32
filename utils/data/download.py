"""Downloading that leaves either a whole, verified file or nothing.

Three rules make a download safe to interrupt, to run twice, and to point at a bad mirror:
a file is written under a temporary name and gets its own only after its checksum was
right; a mirror that fails in any way is followed by the next; and of an archive only the
expected members are taken, to names chosen here and not by the archive.

Pooch (https://www.fatiando.org/pooch) does the first. It is imported only when something
has to be downloaded.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from utils.data.errors import DataError
from utils.data.sources import Remote, Source

TIMEOUT = (10.0, 30.0)  # seconds to connect; seconds without a byte


def fetch(
    source: Source,
    root: Path,
    missing: tuple[str, ...],
    timeout: tuple[float, float] = TIMEOUT,
) -> None:
    """Download the `missing` files of a set into the data folder `root`.

    Raises DataError, with what each mirror did, if a file cannot be had from any of them.
    """
    if source.archived:
        (remote,) = source.remotes
        was_there = (root / remote.name).exists()
        archive = _retrieve(source, remote, root, timeout)
        try:
            unpack(archive, root / source.folder, missing)
        except DataError:  # perhaps because another process has unpacked and removed it
            if not all((root / source.folder / file).exists() for file in missing):
                raise
        if not was_there:
            archive.unlink(missing_ok=True)
        return
    for remote in source.remotes:
        if remote.name.removesuffix(".gz") in missing:
            _retrieve(source, remote, root / source.folder, timeout)


def unpack(archive: Path, folder: Path, files: tuple[str, ...]) -> None:
    """Take `files` out of the member directory folder.name of a .tar.gz, into `folder`.

    Each file appears whole or not at all. Raises DataError if one is missing, the archive
    is damaged, or a member's name leads out of the archive's own directory.
    """
    wanted = {f"{folder.name}/{file}": file for file in files}
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpack-") as temporary:
            with tarfile.open(archive, "r:gz") as tar:
                for member in tar:
                    _refuse_escape(archive, member.name)
                    content = tar.extractfile(member) if member.isreg() else None
                    if content is not None and member.name in wanted:
                        with open(Path(temporary, wanted[member.name]), "wb") as out:
                            shutil.copyfileobj(content, out, 2**20)
            absent = [file for file in files if not Path(temporary, file).exists()]
            if absent:
                raise DataError(f"{archive} lacks {', '.join(absent)}: delete it and try again.")
            folder.mkdir(parents=True, exist_ok=True)
            for file in files:
                os.replace(Path(temporary, file), folder / file)
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(
            f"{archive} cannot be unpacked ({error}): delete it and try again."
        ) from error


def _refuse_escape(archive: Path, member: str) -> None:
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{archive} has a member that leads out of it, {member!r}: delete it.")


def _retrieve(source: Source, remote: Remote, folder: Path, timeout: tuple[float, float]) -> Path:
    """One file, from the first mirror that has it right; at once if it is there already."""
    try:
        import pooch
    except ImportError as error:
        raise DataError("Downloading needs pooch: pip install pooch.") from error

    pooch.get_logger().setLevel(logging.WARNING)  # no line for every file
    reasons = []
    for mirror in source.mirrors:
        try:
            return Path(
                pooch.retrieve(
                    mirror + remote.name,
                    remote.checksum,
                    fname=remote.name,
                    path=folder,
                    downloader=_Downloader(remote, timeout),
                )
            )
        except Exception as error:  # whatever a mirror does wrong, there is a next one
            reasons.append(f"{mirror}: {_reason(error, timeout)}")
    raise DataError(
        f"{source.title} could not be downloaded, as {remote.name} failed from every mirror "
        f"({'; '.join(reasons)}): put the file into {folder} by hand, or try again later."
    )


def _reason(error: Exception, timeout: tuple[float, float]) -> str:
    """What a mirror did, in a few words; the messages of the HTTP library fill a screen."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP status {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return f"no answer within {timeout[0]:g} s (connect) or {timeout[1]:g} s (read)"
    if isinstance(error, requests.TooManyRedirects):
        return "redirects without end"
    if isinstance(error, requests.RequestException):
        return f"no connection, or it broke off ({type(error).__name__})"
    if isinstance(error, ValueError):
        return "other contents than expected (checksum differs)"
    return " ".join(str(error).split())[:200] or type(error).__name__


class _Downloader:
    """How Pooch is to get a file: stopped when it grows too long, a percentage on a terminal."""

    def __init__(self, remote: Remote, timeout: tuple[float, float]) -> None:
        self.remote = remote
        self.timeout = timeout

    def __call__(self, url: str, output_file: str, _pooch: Any) -> None:
        import requests

        received = 0
        with requests.get(url, stream=True, timeout=self.timeout) as response:
            response.raise_for_status()
            with open(output_file, "wb") as file:
                for chunk in response.iter_content(2**16):
                    received += len(chunk)
                    if received > self.remote.size:
                        raise OSError(f"more than the {self.remote.size} bytes of the file")
                    file.write(chunk)
                    self._show(received)

    def _show(self, received: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if received == self.remote.size else ""
            percent = 100 * received // self.remote.size
            print(f"\r{self.remote.name}: {percent}%", end=end, file=sys.stderr, flush=True)
