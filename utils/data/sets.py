"""`load`: the one door to all data sets, and the rule for what is used when.

    policy       on disk   not there, download    not there, no download
    "auto"       files     download, or embedded  embedded
    "real"       files     download, or error     download, or error
    "embedded"   embedded  embedded               embedded

A file that is damaged is never passed over in silence: that is an error, which says which file
and what to do. So is a set of which only some files are there, where nothing may be downloaded.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, overload

from utils.data import disk, embedded
from utils.data.dataset import Dataset, TextData
from utils.data.download import TIMEOUT, fetch
from utils.data.errors import DataError
from utils.data.sources import SOURCES, Source

NAMES = tuple(SOURCES)
Policy = Literal["auto", "real", "embedded"]
ImageSet = Literal["mnist", "fashion_mnist", "cifar10", "cifar100"]


@overload
def load(
    name: ImageSet,
    policy: Policy = ...,
    download: bool = ...,
    root: str | Path | None = ...,
    *,
    sources: Mapping[str, Source] = ...,
    timeout: tuple[float, float] = ...,
) -> Dataset: ...
@overload
def load(
    name: Literal["tinyshakespeare"],
    policy: Policy = ...,
    download: bool = ...,
    root: str | Path | None = ...,
    *,
    sources: Mapping[str, Source] = ...,
    timeout: tuple[float, float] = ...,
) -> TextData: ...
@overload
def load(
    name: str,
    policy: Policy = ...,
    download: bool = ...,
    root: str | Path | None = ...,
    *,
    sources: Mapping[str, Source] = ...,
    timeout: tuple[float, float] = ...,
) -> Dataset | TextData: ...


def load(
    name: str,
    policy: Policy = "auto",
    download: bool = False,
    root: str | Path | None = None,
    *,
    sources: Mapping[str, Source] = SOURCES,
    timeout: tuple[float, float] = TIMEOUT,
) -> Dataset | TextData:
    """A data set by name: mnist, fashion_mnist, cifar10, cifar100 or tinyshakespeare.

    policy, download: see the table above. root: the data folder; by default the one that
    the environment variable COURSE_DATA_DIR names, else `data/` of this repository.
    sources, timeout: other mirrors and seconds (connect, read), for tests.

    Warns when a download failed and embedded data is used instead. Raises DataError for an
    unknown name or policy, a COURSE_DATA_DIR that does not exist, a damaged or incomplete
    set, or real data that cannot be had.
    """
    if name not in sources:
        raise DataError(f"There is no data set {name!r}: choose from {', '.join(sources)}.")
    if policy not in ("auto", "real", "embedded"):
        raise DataError(f"There is no policy {policy!r}: choose from auto, real, embedded.")
    if policy == "embedded":
        return embedded.stand_in(name)
    source, folder = sources[name], data_folder(root)
    missing = _missing(source, folder)
    if missing and (download or policy == "real"):
        try:
            fetch(source, folder, missing, timeout)
        except DataError as error:
            if policy == "real":
                raise
            replacement = embedded.stand_in(name)
            warnings.warn(f"USING {replacement.description.upper()}: {error}", stacklevel=2)
            return replacement
    elif len(missing) == len(source.files):
        return embedded.stand_in(name)
    elif missing:
        raise DataError(
            f"{source.title} in {folder / source.folder} is incomplete, it lacks "
            f"{', '.join(missing)}: add what is missing, or delete the folder."
        )
    return disk.read(name, source, disk.find(source, folder))


def _missing(source: Source, folder: Path) -> tuple[str, ...]:
    paths = disk.find(source, folder)
    return tuple(file for file in source.files if file not in paths)


def data_folder(root: str | Path | None = None) -> Path:
    """Where the data lies: `root`, else $COURSE_DATA_DIR, else `data/` of the repository.

    Raises DataError where it is the variable that counts, and it names no folder.
    """
    if root:
        return Path(root).expanduser()
    named = os.environ.get("COURSE_DATA_DIR")
    if not named:
        return Path(__file__).resolve().parents[2] / "data"
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"COURSE_DATA_DIR names {folder}, which is no folder: correct or create it."
        )
    return folder
