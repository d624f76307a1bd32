"""CIFAR's batches: pickles, read without running what they say.

A pickle is a program for a small stack machine, and one of its instructions calls any
function of any module. `pickle.load` of a file from the web therefore runs whatever its
author wished. A batch holds nothing but a dict of names, label lists and one array, so
this reader lets a pickle name four functions and gives it harmless ones of that name:
they only note down what an array would have been made of. NumPy itself makes the array
afterwards, from bytes whose length was checked.

Harmless calls can still be too many: a few bytes double a nested tuple, another few copy a text
of a megabyte. So the instructions and the copied bytes are counted, and keys must be words (the
hash of a tuple takes time, and stack, for all that is nested in it).

The machine is Python's own, in its version written in Python: the one in C reserves as
much memory as a damaged file asks for, gigabytes from one flipped bit.

Sources: https://www.cs.toronto.edu/~kriz/cifar.html (the batches),
https://docs.python.org/3/library/pickle.html#restricting-globals (the idea).
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from utils.data.errors import DataError, damaged

PIXELS = 3 * 32 * 32  # a row is the red plane, then green, then blue, each 32 x 32
MAX_BYTES = 2**29  # the largest real file, CIFAR-100's training set, has 155 MB
MAX_INSTRUCTIONS = 2_000_000  # names and labels of 50,000 images take at most 350,000
UNUSED = b"".join((pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET))


class _ArrayNote:
    """What a pickle said about one array."""

    shape: Any = None
    dtype: Any = None
    fortran: Any = False
    data: Any = None

    def __setstate__(self, state: Any) -> None:
        _version, self.shape, self.dtype, self.fortran, self.data = state


class _DtypeNote:
    """What a pickle said about one dtype; its state is byte order, nothing to a byte."""

    code: Any = None

    def __setstate__(self, state: Any) -> None:
        pass


def _note_array(*_args: Any) -> _ArrayNote:
    """In place of numpy's `_reconstruct`: an empty array, to be filled by its state."""
    return _ArrayNote()


def _note_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _ArrayNote:
    """In place of numpy's `_frombuffer`, which pickle protocol 5 uses."""
    note = _ArrayNote()
    note.__setstate__((1, shape, dtype, order == "F", data))
    return note


def _note_dtype(code: Any, *_flags: Any) -> _DtypeNote:
    """In place of `numpy.dtype`."""
    note = _DtypeNote()
    note.code = code
    return note


class _Words(dict):
    """In place of a dict: its keys are words."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(key, (str, bytes)):
            raise pickle.UnpicklingError("a key that is no word")
        super().__setitem__(key, value)


class _Instructions(dict):
    """What to do for each instruction, told to at most so many."""

    left = MAX_INSTRUCTIONS

    def __getitem__(self, instruction: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise pickle.UnpicklingError(f"more than {MAX_INSTRUCTIONS} instructions")
        return super().__getitem__(instruction)


_PERMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _note_dtype,
    ("numpy", "ndarray"): "ndarray",  # only ever an argument of _reconstruct
    ("numpy.core.multiarray", "_reconstruct"): _note_array,  # NumPy 1
    ("numpy._core.multiarray", "_reconstruct"): _note_array,  # NumPy 2
    ("numpy.core.numeric", "_frombuffer"): _note_buffer,
    ("numpy._core.numeric", "_frombuffer"): _note_buffer,
}


_Unpickler: Any = pickle._Unpickler  # of which type checkers do not know the half


class _SafeUnpickler(_Unpickler):
    """Python's unpickler, which knows the functions above and no others."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self.dispatch = _Instructions(self.dispatch)
        self.copies = len(content)  # bytes that may yet be copied

    def encode(self, text: Any, encoding: Any) -> bytes:
        """In place of `codecs.encode`: how Python 3 writes bytes into a pickle of protocol 2."""
        if encoding not in ("latin1", b"latin1"):
            raise pickle.UnpicklingError("another text encoding than latin1")
        self.copies -= len(text)
        if self.copies < 0:
            raise pickle.UnpicklingError("more text than the file has bytes")
        return text.encode("latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self.encode
        try:
            return _PERMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"a call of {module}.{name}") from None

    def load_empty_dictionary(self) -> None:
        self.append(_Words())

    def load_dict(self) -> None:
        items = self.pop_mark()
        words = _Words()
        for key, value in zip(items[::2], items[1::2]):
            words[key] = value
        self.append(words)

    # A bytearray would be reserved at the length that the file claims; read as bytes, it
    # gets only what is there.
    dispatch = {
        **{code: step for code, step in _Unpickler.dispatch.items() if code not in UNUSED},
        pickle.BYTEARRAY8[0]: _Unpickler.dispatch[pickle.BINBYTES8[0]],
        pickle.EMPTY_DICT[0]: load_empty_dictionary,
        pickle.DICT[0]: load_dict,
    }


def read_batch(path: Path, label_key: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 3072) uint8 and labels (N,) int64 of one batch.

    label_key: "labels" in CIFAR-10, "fine_labels" in CIFAR-100.
    Raises DataError if the file cannot be read, names a function that no array needs,
    lacks pixels or labels, or has them of another type or length or out of range.
    """
    with _blaming(path):
        content = _read_dict(path)
        pixels, labels = content.get("data"), content.get(label_key)
        if not isinstance(pixels, _ArrayNote) or not isinstance(labels, list):
            raise damaged(path, "one of them missing", f"an array 'data', a list '{label_key}'")
        images = _array(path, pixels)
        if len(labels) != len(images):
            raise damaged(path, f"{len(labels)} labels", f"one for each of {len(images)} images")
        if not all(type(label) is int and 0 <= label < classes for label in labels):
            raise damaged(path, "a label that is none", f"integers from 0 to {classes - 1}")
        return images, np.array(labels, dtype=np.int64)


def read_names(path: Path, key: str, classes: int) -> tuple[str, ...]:
    """The class names in a file of CIFAR's, such as "label_names" in `batches.meta`.

    Raises DataError if the file cannot be read or has not `classes` names there.
    """
    with _blaming(path):
        names = _read_dict(path).get(key)
        if not isinstance(names, list) or len(names) != classes:
            raise damaged(path, f"no such list '{key}'", f"{classes} names under that key")
        return tuple(_text(name) for name in names)


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong inside into a DataError about `path`.

    A damaged pickle can fail in any way at all, from EOFError to MemoryError, so here
    every exception is caught.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        found = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise damaged(path, found, "a pickled dict of lists and arrays, as CIFAR has") from error


def _read_dict(path: Path) -> dict[str, Any]:
    """The dict in a CIFAR pickle, its keys as str and its arrays as notes."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise damaged(path, f"{size} bytes", f"at most {MAX_BYTES}")
    content = _SafeUnpickler(path.read_bytes()).load()
    return {_text(key): value for key, value in content.items()}


def _array(path: Path, note: _ArrayNote) -> np.ndarray:
    """The (N, 3072) uint8 array that a pickle described."""
    shape, data = note.shape, note.data
    if note.dtype.code not in ("u1", b"u1"):
        raise damaged(path, "an array of another type", "unsigned bytes (u1)")
    if [type(n) for n in shape] != [int, int] or shape[1] != PIXELS or shape[0] < 1:
        raise damaged(path, "an array of another shape", f"(N, {PIXELS})")
    if not isinstance(data, bytes) or len(data) != shape[0] * PIXELS:
        raise damaged(path, "pixels of another length", f"{shape[0]} x {PIXELS} bytes")
    order: Literal["F", "C"] = "F" if note.fortran else "C"
    return np.frombuffer(data, dtype=np.uint8).reshape(shape, order=order)


def _text(value: str | bytes) -> str:
    """Python 2 wrote names as bytes, Python 3 as str."""
    return value if isinstance(value, str) else value.decode("utf-8")
