"""One run at a time in a results folder: of two, each would clear the other's checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from utils.errors import UserError

if sys.platform == "win32":
    import msvcrt

    def _lock(file: BinaryIO) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other runs out of `folder` meanwhile.

    The system lets go of the lock when the process ends, however it ends: the file `.lock`,
    which stays, blocks nobody. A file system without locks has none to give; the run goes on.

    Raises UserError while another run holds it, or where the folder cannot be written to.
    """
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"could not write {path}: {reason}; nothing was changed") from error
    with file:
        try:
            _lock(file)
        except (BlockingIOError, PermissionError):  # what POSIX and Windows say of a taken one
            raise UserError(
                f"another run is writing to {folder}: wait until it has ended, or choose another "
                "folder with --results"
            ) from None
        except OSError:
            pass
        yield
