"""IDX files, the format of the MNIST digits (http://yann.lecun.com/exdb/mnist/), plain or gzipped.

Two zero bytes, a code for the dtype, the number of axes, the lengths as 32-bit integers, the values: all big-endian.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from typing import IO, Any

import numpy as np

from dagrun.array import Array
from dagrun.data.errors import DataError

CODES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_AXES = 64  # NumPy's
DEFLATE_RATIO = 1032  # no deflate stream holds more than this for each of its bytes (zlib.net/zlib_tech.html)
_PIECE = 1 << 20

Path = str | os.PathLike[str]
File = IO[bytes] | gzip.GzipFile


def _take(file: File, nbytes: int, path: Path, what: str) -> bytearray:
    """So many bytes, read in pieces: memory grows with what is there, not with what a header claims."""
    data = bytearray()
    while len(data) < nbytes:
        piece = file.read(min(_PIECE, nbytes - len(data)))
        if not piece:
            raise DataError(path, f"{what}: {len(data)} bytes, expected {nbytes}")
        data += piece
    return data


def read_idx(path: Path) -> np.ndarray[Any, Any]:
    """The array of an IDX file, in native byte order; gzipped files are recognised by their content.

    DataError, naming the file, where it is no IDX file, is damaged, or is shorter or longer than its header says.

        >>> import tempfile
        >>> from dagrun import data
        >>> path = tempfile.mkdtemp() + "/labels-idx1-ubyte.gz"
        >>> data.write_idx(path, np.array([7, 2, 1], "uint8"))
        >>> data.read_idx(path)
        array([7, 2, 1], dtype=uint8)
    """
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        most = os.fstat(file.fileno()).st_size * (DEFLATE_RATIO if compressed else 1)
        if not compressed:
            return _read(file, path, most)
        try:
            with gzip.open(file) as unpacked:
                return _read(unpacked, path, most)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(path, f"the gzip stream is damaged: {error}") from error


def _read(file: File, path: Path, most: int) -> np.ndarray[Any, Any]:
    zeros, code, axes = struct.unpack(">HBB", _take(file, 4, path, "the header"))
    if zeros or code not in CODES:
        expected = ", ".join(f"{c:#04x}" for c in CODES)
        raise DataError(path, f"begins {zeros:#06x} {code:#04x}, expected 0x0000 and a dtype's code: {expected}")
    if axes > MAX_AXES:
        raise DataError(path, f"has {axes} axes, expected at most {MAX_AXES}")
    shape = struct.unpack(f">{axes}I", _take(file, 4 * axes, path, f"the lengths of {axes} axes"))
    dtype = np.dtype(CODES[code])
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes > most:
        raise DataError(path, f"the values of shape {shape}: at most {most} bytes, expected {nbytes}")
    data = _take(file, nbytes, path, f"the values of shape {shape}")
    if file.read(1):
        raise DataError(path, f"goes on after the {nbytes} bytes of values of shape {shape}")
    try:
        values = np.frombuffer(data, dtype).reshape(shape)
    except ValueError as error:  # an empty array whose other lengths are beyond NumPy's
        raise DataError(path, f"has the impossible shape {shape}") from error
    return values.astype(dtype.newbyteorder("="), copy=False)


def write_idx(path: Path, array: Any) -> None:
    """Writes an array as an IDX file, gzipped where the name ends in .gz.

    TypeError for dtypes that the format has not (it has uint8, int8, int16, int32, float32 and float64).
    """
    values = array.numpy() if isinstance(array, Array) else np.asarray(array)
    codes = {np.dtype(name).newbyteorder("="): code for code, name in CODES.items()}
    code = codes.get(values.dtype.newbyteorder("="))
    if code is None:
        raise TypeError(f"IDX files hold {', '.join(map(str, codes))}; got {values.dtype}")
    if any(length >= 1 << 32 for length in values.shape):
        raise ValueError(f"IDX files hold lengths below 2**32; got shape {values.shape}")
    head = struct.pack(f">HBB{values.ndim}I", 0, code, values.ndim, *values.shape)
    data = head + values.astype(CODES[code], copy=False).tobytes()
    with open(path, "wb") as file:
        # No name and no time inside, so that equal arrays are equal files.
        file.write(gzip.compress(data, mtime=0) if os.fspath(path).endswith(".gz") else data)
