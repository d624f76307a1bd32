"""The IDX format of MNIST: sixteen bytes of header, then nothing but pixels.

    byte 0-1   zero
    byte 2     the type of a number; 8 means unsigned byte
    byte 3     how many dimensions follow
    then       one big-endian 32-bit size for each dimension
    then       the numbers, last dimension fastest

Source: http://yann.lecun.com/exdb/mnist/ ("the IDX file format"). The header says how long
the file must be, so a download that broke off, or one glued to something else, shows.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from utils.data.errors import damaged

UNSIGNED_BYTE = 8
MAX_BYTES = 2**30  # far above MNIST's 47 MB; a damaged header may ask for anything


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """The uint8 array in an IDX file, gzipped if its name ends in ".gz".

    ndim: 3 for images (N, H, W), 1 for labels (N,).
    Raises DataError if the file cannot be read, is not IDX, has other dimensions, or is
    longer or shorter than its header says.
    """
    packed = path.suffix == ".gz"
    try:
        with gzip.open(path, "rb") if packed else open(path, "rb") as file:
            header = file.read(4 + 4 * ndim)
            shape = _shape(path, header, ndim)
            size = math.prod(shape)
            body = file.read(size + 1)  # one byte more, to see a file that is too long
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        kind = "a gzipped IDX file" if packed else "an IDX file"
        raise damaged(path, f"something unreadable ({error})", kind) from error
    if len(body) != size:
        found = f"only {len(body)}" if len(body) < size else "more"
        raise damaged(path, f"{found} bytes after the header", f"{size} for shape {shape}")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def _shape(path: Path, header: bytes, ndim: int) -> tuple[int, ...]:
    """The dimensions in an IDX header, once they are known to be possible."""
    magic = bytes([0, 0, UNSIGNED_BYTE, ndim])
    if header[:4] != magic:
        raise damaged(path, f"first bytes {header[:4].hex(' ') or 'missing'}", magic.hex(" "))
    if len(header) < 4 + 4 * ndim:
        raise damaged(path, f"a header of {len(header)} bytes", f"{4 + 4 * ndim}")
    shape = struct.unpack(f">{ndim}I", header[4:])
    if not 0 < math.prod(shape) <= MAX_BYTES:
        raise damaged(path, f"dimensions {shape}", f"1 to {MAX_BYTES} bytes in all")
    return shape
