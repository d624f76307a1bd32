"""What an experiment found, and the one place that writes it to disk and reads it back.

A result lies under results/sectionN/<experiment>/ as `result.json` (all words and
numbers) and `arrays.npz` (whatever is too large to read). Every file is written under a
temporary name in its folder and then renamed, so a file is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import reprlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import config
from utils.errors import UserError, WriteError

MOST_BYTES = 2**30  # of arrays; a small file can unpack to what fills the memory

# Temporary files, which a writer that was killed has left: where only runs write, and elsewhere.
OF_RUNS = ("section[0-9]/**/.*.????????.tmp", "section[0-9]/**/*????????.part")
OF_OTHERS = tuple(
    f"{place}.????????.tmp"
    for place in (".index.html", ".report.pdf", "..writable", "report/.*", "benchmarks/.*")
)
ABANDONED = 60.0  # seconds: no writer leaves a file alone for so long


@dataclass
class Curve:
    """One line of a plot: y over x, and the standard deviation of y where n runs were made."""

    x: Sequence[float]
    y: Sequence[float]
    std: Sequence[float] | None = None
    n: int = 1
    x_label: str = ""
    y_label: str = ""

    @classmethod
    def over_runs(cls, x: Sequence[float], runs: Any, x_label: str, y_label: str) -> Curve:
        """Mean and sample standard deviation over `runs` (n, len(x)); no deviation for n = 1."""
        table = np.asarray(runs, float)
        std = table.std(axis=0, ddof=1).tolist() if len(table) > 1 else None
        return cls(list(x), table.mean(axis=0).tolist(), std, len(table), x_label, y_label)


@dataclass
class Table:
    """Rows of words and numbers under named columns."""

    columns: list[str]
    rows: list[list[Any]]


@dataclass
class Result:
    """The answer to an experiment's question, and the numbers that it rests on.

    `compute` gives the first six; `info` is added by the runner: the question, the
    settings, the data used and its provenance, the versions, the machine and the time.
    """

    answer: str  # in words, made from the numbers
    headline: str  # the key in `metrics` of the one number to show in a summary
    metrics: dict[str, float]
    curves: dict[str, Curve] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.headline not in self.metrics:
            raise ValueError(f"the headline {self.headline!r} is none of {', '.join(self.metrics)}")

    @property
    def data(self) -> list[str]:
        """What data it rests on, in words."""
        return [used["description"] for used in self.info["data"].values()]


def write_files(files: Mapping[Path, Callable[[BinaryIO], object]]) -> None:
    """Create or replace each path with what its function puts into the file: all or none.

    Only when every temporary file is safely on disk do they get their names. Raises
    WriteError where the folder or the disk will not take them; all is then as it was.
    """
    temporaries: list[Path] = []
    path = Path()
    try:
        for path, write in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False
            ) as file:
                temporaries.append(Path(file.name))
                write(file)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
            temporaries[-1].chmod(0o644)  # temporary files are private, results are not
        copies = [temporary.with_name(f".kept{temporary.name}") for temporary in temporaries]
        with restored(dict(zip(list(files)[:-1], copies))):  # after the last nothing can fail
            for temporary, path in zip(temporaries, files):
                temporary.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise WriteError(f"could not write {path}: {reason}; nothing was changed") from error
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


@contextmanager
def restored(copies: Mapping[Path, Path]) -> Iterator[None]:
    """Where an OSError is raised within, each path is again what it was: its copy tells.

    So it is on Windows, which replaces no file that another program holds open.
    """
    there = {path: copy for path, copy in copies.items() if path.is_file()}
    try:
        for path, copy in there.items():
            try:
                os.link(path, copy)
            except OSError:  # a file system without hard links
                shutil.copy2(path, copy)
        try:
            yield
        except OSError:
            for path in copies:
                with suppress(OSError):  # one that cannot be replaced was not replaced before
                    if path in there:
                        there[path].replace(path)
                    else:
                        path.unlink(missing_ok=True)
            raise
    finally:
        for copy in there.values():
            copy.unlink(missing_ok=True)


def write_file(path: Path, content: bytes) -> None:
    write_files({path: lambda file: file.write(content)})


def sweep(folder: Path) -> None:
    """Delete the temporary files that killed writers have left in a results folder.

    The caller holds its lock, so no run goes on whose files they could be; what `main.py report`
    and the benchmarks write, who hold none, must have been left alone for a while.
    """
    stale = {path for pattern in OF_RUNS for path in folder.glob(pattern)}
    for path in {path for pattern in OF_OTHERS for path in folder.glob(pattern)}:
        try:
            if time.time() - path.stat().st_mtime > ABANDONED:
                stale.add(path)
        except FileNotFoundError:  # its writer has just ended
            continue
    for path in stale:
        path.unlink(missing_ok=True)


def command(words: str, place: Path) -> str:
    """`python main.py WORDS`, with the folder of results where it is not the usual one."""
    name = f'"{place}"' if " " in str(place) else str(place)
    option = "" if place == Path(config.RESULTS_DIR) else f" --results {name}"
    return f"python main.py {words}{option}"


def to_json(content: Any) -> bytes:
    return json.dumps(to_plain(content), indent=1, ensure_ascii=False, allow_nan=False).encode()


def to_plain(value: Any) -> Any:
    """Only what JSON knows: NumPy numbers become numbers, and NaN or infinity null."""
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist())
    if isinstance(value, np.generic):
        return to_plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def save(result: Result, folder: Path) -> None:
    """Write a result into its folder; `result.json` knows the hash of its arrays."""
    files: dict[Path, Callable[[BinaryIO], object]] = {}
    record = {**asdict(result), "arrays": {k: v.shape for k, v in result.arrays.items()}}
    if result.arrays:
        packed = io.BytesIO()
        np.savez_compressed(packed, **result.arrays)  # type: ignore[arg-type]
        record["arrays_sha256"] = hashlib.sha256(packed.getvalue()).hexdigest()
        files[folder / "arrays.npz"] = lambda file: file.write(packed.getvalue())
    files[folder / "result.json"] = lambda file: file.write(to_json(record))
    write_files(files)


def add_info(folder: Path, **facts: Any) -> None:
    """Add to the `info` of a saved result; its arrays stay as they are."""
    path = folder / "result.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["info"] |= facts
    write_file(path, to_json(record))


def load(folder: Path) -> Result:
    """Read back what `save` wrote. Raises UserError where it is missing or damaged."""
    path = folder / "result.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        stamp = record.pop("arrays_sha256", None)
        names, record["arrays"] = record["arrays"], {}
        if names:
            raw = (folder / "arrays.npz").read_bytes()
            if hashlib.sha256(raw).hexdigest() != stamp:
                raise ValueError("arrays.npz is of another run")
            record["arrays"] = _unpacked(raw, names)
        record["metrics"] = {name: _number(value) for name, value in record["metrics"].items()}
        record["curves"] = {k: _curve(v) for k, v in record["curves"].items()}
        record["tables"] = {k: _table(v) for k, v in record["tables"].items()}
        _check_words([record["answer"], record["headline"]])
        result = Result(**record)
        _check_info(result)
        return result
    except FileNotFoundError as error:
        raise UserError(f"there is no result in {folder}: run the experiment first") from error
    except Exception as error:  # a damaged file can lead a reader anywhere
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{path} cannot be read ({reason}): run the experiment again") from error


def _unpacked(raw: bytes, shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(raw), allow_pickle=False) as file:
        if sum(member.file_size for member in file.zip.infolist()) > MOST_BYTES:
            raise ValueError(f"arrays.npz holds more than {MOST_BYTES} bytes")
        arrays = {name: file[name] for name in shapes}
    if {name: list(array.shape) for name, array in arrays.items()} != shapes:
        raise ValueError("arrays.npz has other shapes than result.json says")
    return arrays


def _number(value: Any) -> float:
    """A number; what JSON has no number for was written as null."""
    if value is None:
        return math.nan
    if type(value) not in (int, float):
        raise TypeError(f"{reprlib.repr(value)} is not a number")
    float(value)  # OverflowError for a whole number beyond all floats
    return value


def _check_words(values: Sequence[Any]) -> None:
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"{reprlib.repr(value)} is no text")


def _curve(record: dict[str, Any]) -> Curve:
    x, y, std = (record[key] and [_number(value) for value in record[key]]
                 for key in ("x", "y", "std"))  # fmt: skip
    if not len(x) == len(y) == len(y if std is None else std):
        raise ValueError("a curve's x, y and std have different lengths")
    _check_words([record["x_label"], record["y_label"]])
    return Curve(**{**record, "x": x, "y": y, "std": std, "n": int(record["n"])})


def _table(record: dict[str, Any]) -> Table:
    table = Table(**record)
    _check_words(table.columns)
    if any(len(row) != len(table.columns) for row in table.rows):
        raise ValueError("a table's row has more or fewer cells than there are columns")
    return table


def _check_info(result: Result) -> None:
    """Raise an error where what is read of every result is missing or of a wrong type."""
    info = result.info
    if math.isnan(_number(info["seconds"])):
        raise ValueError("the time it took is missing")
    _check_words([info["settings"]["mode"], *info.get("figures", []), *result.data])
    _check_words([used["provenance"] for used in info["data"].values()])
