"""What is noted while a network learns, so that a resumed run knows it as well."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from section4 import checkpoint, distributed

Note = TypeVar("Note")


class Kept(dict[int, Note]):
    """Notes by the step at which they were taken, in a file as well.

    Training that is resumed does not come past the first steps again. A note is a tensor or a
    plain value; of several processes the first one writes.
    """

    def __init__(self, file: Path):
        self.file = file
        exists = distributed.of_first(file.exists())
        super().__init__(checkpoint.load(file)["notes"] if exists else {})

    def __setitem__(self, step: int, note: Note) -> None:
        super().__setitem__(step, note)
        if distributed.rank() == 0:
            checkpoint.save(self.file, {"notes": dict(self)})
