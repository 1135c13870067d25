"""Packed record files: many samples in one file, with checksums, append-safe, readable in parallel and in part.

The format is docs/records.md: a header, blocks (each with its length and two CRC-32), an index of them, a trailer.
Index and trailer are a convenience: where they are missing or damaged, the blocks are scanned instead.

Guarantees:
- A writer that is killed at any moment leaves a file that opens, with every record whose `write` had returned.
- Nothing is returned that does not match its checksum; what does not raises RecordError.
- No length from a file is trusted before it was compared with the size of the file.
"""

from __future__ import annotations

import fcntl
import os
import struct
import weakref
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self

import numpy as np

from dagrun.data.dataset import Dataset, checked_index
from dagrun.data.errors import RecordError
from dagrun.data.record_arrays import decode, encode, padding

MAGIC, VERSION = b"\x89dagrec\n", 1
BLOCK_MAGIC, END_MAGIC = b"blk\n", b"\x89dagend\n"
BYTES, ARRAYS, INDEX = 1, 2, 3  # kinds of block

HEADER = struct.Struct("<8sI")  # magic, version; then its CRC
BLOCK = struct.Struct("<4sIQI")  # magic, kind, length and CRC of the payload; then its own CRC
TRAILER = struct.Struct("<QQI")  # where the index block begins, number of records, zero; then its CRC and the end magic
CRC = struct.Struct("<I")
HEADER_SIZE, BLOCK_SIZE, TRAILER_SIZE = HEADER.size + 4, BLOCK.size + 4, TRAILER.size + 12

Path = str | os.PathLike[str]
Record = bytes | dict[str, np.ndarray[Any, Any]]


def _sealed(packed: bytes) -> bytes:
    return packed + CRC.pack(zlib.crc32(packed))


def _is_sealed(raw: bytes | memoryview) -> bool:
    return CRC.unpack(raw[-4:])[0] == zlib.crc32(raw[:-4])


def _block(kind: int, payload: bytes) -> bytes:
    head = _sealed(BLOCK.pack(BLOCK_MAGIC, kind, len(payload), zlib.crc32(payload)))
    return b"".join((head, payload, b"\0" * padding(len(payload))))


def _read(fd: int, nbytes: int, offset: int) -> bytes:
    """Bytes of the file; fewer only at its end."""
    data = os.pread(fd, nbytes, offset)
    if len(data) == nbytes or not data:
        return data
    parts = [data]  # a system reads at most 2 GiB at once
    while (missing := nbytes - sum(map(len, parts))) and (more := os.pread(fd, missing, offset + nbytes - missing)):
        parts.append(more)
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class _Head:
    kind: int
    length: int
    crc: int

    @property
    def nbytes(self) -> int:
        """Of the whole block."""
        return BLOCK_SIZE + self.length + padding(self.length)


def _head(raw: bytes | memoryview) -> _Head | str:
    """The head of a block, or what is wrong with it."""
    magic, kind, length, crc = BLOCK.unpack(raw[: BLOCK.size])
    if magic != BLOCK_MAGIC:
        return f"found {bytes(magic)!r}, expected a block that begins with {BLOCK_MAGIC!r}"
    if not _is_sealed(raw[:BLOCK_SIZE]):
        return "the head of the block does not match its checksum"
    if kind not in (BYTES, ARRAYS, INDEX):
        return f"a block of kind {kind}, expected 1 to 3"
    return _Head(kind, length, crc)


@dataclass(slots=True)
class _Contents:
    """What a file holds: where its records begin, and where the last one ends."""

    offsets: Sequence[int]
    end: int
    complete: bool  # the index was there
    torn: str | None = None  # what follows the end, if it is a block that was not finished


def _check_header(fd: int, path: Path) -> None:
    raw = _read(fd, HEADER_SIZE, 0)
    if len(raw) < HEADER_SIZE or not raw.startswith(MAGIC):
        raise RecordError(
            path, 0, f"found {raw[: len(MAGIC)]!r}, expected the {HEADER_SIZE} bytes that begin {MAGIC!r}"
        )
    if not _is_sealed(raw):
        raise RecordError(path, 0, "the header does not match its checksum")
    version = HEADER.unpack(raw[: HEADER.size])[1]
    if version != VERSION:
        raise RecordError(path, len(MAGIC), f"version {version} of the format, expected {VERSION}")


def _trailer(fd: int, size: int) -> tuple[int, int] | None:
    """Where the index block begins, and the number of records; None where the file does not end in a good trailer."""
    if size < HEADER_SIZE + BLOCK_SIZE + TRAILER_SIZE:
        return None
    raw = _read(fd, TRAILER_SIZE, size - TRAILER_SIZE)
    if raw[-8:] != END_MAGIC or not _is_sealed(raw[:-8]):
        return None
    begin, count, _ = TRAILER.unpack(raw[: TRAILER.size])
    return (begin, count) if begin + BLOCK_SIZE + 8 * count + TRAILER_SIZE == size else None


def _indexed(fd: int, size: int) -> _Contents | None:
    """The contents by the index at the end of the file; None where it is missing or anything about it is not right."""
    trailer = _trailer(fd, size)
    if trailer is None:
        return None
    begin, count = trailer
    raw = memoryview(_read(fd, BLOCK_SIZE + 8 * count, begin))
    head = _head(raw)
    if isinstance(head, str) or (head.kind, head.length) != (INDEX, 8 * count):
        return None
    payload = raw[BLOCK_SIZE:]
    if zlib.crc32(payload) != head.crc:
        return None
    offsets = np.frombuffer(payload, "<u8")
    edges = np.append(offsets, np.uint64(begin))
    if edges[0] != HEADER_SIZE or np.any(offsets >= begin) or np.any(edges % 8):
        return None
    if np.any(edges[1:] < edges[:-1] + np.uint64(BLOCK_SIZE)):
        return None
    return _Contents(array("Q", offsets.astype("u8").tobytes()), begin, True)


def _scanned(fd: int, size: int, path: Path, salvage: bool) -> _Contents:
    """The contents by going from block to block. An unfinished block at the end is left out; damage raises."""
    offsets, at = array("Q"), HEADER_SIZE
    torn: str | None = None
    trailer = _trailer(fd, size)
    end = size if trailer is None else trailer[0]  # where a damaged index begins, if that is known
    while at < end and torn is None:
        raw = _read(fd, BLOCK_SIZE, at)
        if len(raw) < BLOCK_SIZE:
            torn = f"{len(raw)} bytes, the head of a block has {BLOCK_SIZE}"
            break
        head = _head(raw)
        if isinstance(head, str):
            # What a crash of the system leaves of a file that had grown: zeros to the end.
            if not salvage and not _zeros(fd, at, size):
                hint = f"the {len(offsets)} records before it can be read with RecordReader(path, salvage=True)"
                raise RecordError(path, at, f"{head}; {hint}")
            torn = head
        elif head.kind == INDEX:
            break  # the trailer is damaged or missing; the records are all here
        elif head.nbytes > size - at:
            torn = f"{size - at} bytes of a block of {head.nbytes}"
        else:
            offsets.append(at)
            at += head.nbytes
    return _Contents(offsets, at, False, None if torn is None else f"at byte {at}: {torn}")


def _zeros(fd: int, at: int, size: int) -> bool:
    while at < size:
        raw = _read(fd, min(1 << 20, size - at), at)
        if not raw or raw.count(0) != len(raw):
            return False
        at += len(raw)
    return True


def _contents(fd: int, path: Path, salvage: bool = False) -> _Contents:
    _check_header(fd, path)
    size = os.fstat(fd).st_size
    return _indexed(fd, size) or _scanned(fd, size, path, salvage)


def _payload(fd: int, path: Path, begin: int, end: int) -> tuple[int, memoryview]:
    """Kind and payload of the block from `begin` to `end`, checked."""
    raw = memoryview(_read(fd, end - begin, begin))
    if len(raw) < end - begin:
        raise RecordError(
            path, begin, f"{len(raw)} bytes of a block of {end - begin}: the file was cut since it was opened"
        )
    head = _head(raw)
    if isinstance(head, str):
        raise RecordError(path, begin, head)
    if head.kind == INDEX or head.nbytes != end - begin:
        raise RecordError(
            path, begin, f"a block of kind {head.kind} and {head.nbytes} bytes, expected a record of {end - begin}"
        )
    payload = raw[BLOCK_SIZE : BLOCK_SIZE + head.length]
    if zlib.crc32(payload) != head.crc:
        raise RecordError(path, begin, f"the {head.length} bytes of the record do not match their checksum")
    return head.kind, payload


class _RecordFile:
    """A file that `with` closes."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


class RecordReader(_RecordFile):
    """The records of a file, by number: bytes, or dicts of read-only arrays, as they were written.

    Several threads may read at once; nothing is shared but the open file. RecordError names the file, the byte and
    what was expected: at once where the file is no record file or, without an index, is damaged; at the record where
    that is damaged. `complete` tells whether the file has its index, that is, was closed by its writer; `torn` what
    follows the last whole record, if the writer was stopped in the middle of one. With `salvage` a damaged file without
    an index gives the records before the damage, and `torn` describes it.

        >>> import tempfile
        >>> from dagrun import data
        >>> path = tempfile.mkdtemp() + "/squares.rec"
        >>> with data.RecordWriter(path) as writer:
        ...     for i in range(4):
        ...         _ = writer.write({"x": [i, i * i]})
        >>> reader = data.RecordReader(path)
        >>> len(reader), reader[3]["x"]
        (4, array([3, 9]))
    """

    def __init__(self, path: Path, *, salvage: bool = False) -> None:
        self.path = os.fspath(path)
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self._closing = weakref.finalize(self, os.close, self._fd)
        try:
            contents = _contents(self._fd, self.path, salvage)
        except BaseException:
            self.close()
            raise
        self._offsets, self._end = contents.offsets, contents.end
        self.complete, self.torn = contents.complete, contents.torn

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Record:
        place = checked_index(index, len(self), "RecordReader")
        begin = self._offsets[place]
        end = self._offsets[place + 1] if place + 1 < len(self) else self._end
        kind, payload = _payload(self._fd, self.path, begin, end)
        if kind == BYTES:
            return bytes(payload)
        try:
            return decode(payload)
        except ValueError as error:  # UnicodeDecodeError too
            raise RecordError(self.path, begin, f"record {place} is no dict of arrays: {error}") from error

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def shard(self, index: int, count: int) -> range:
        """The numbers of the records of one of `count` consecutive parts of the file, equal to within one."""
        if not 0 <= index < count:
            raise ValueError(f"shard {index} of {count}: expected an index from 0 to {count - 1}")
        return range(index * len(self) // count, (index + 1) * len(self) // count)

    def close(self) -> None:
        """Closes the file; no thread may be reading."""
        self._fd = -1
        self._closing()


class RecordWriter(_RecordFile):
    """Writes records to a file: "w" makes a new one in the place of any other, "x" a new one, "a" goes on with one.

    Every `write` puts one block into the file; `close` adds the index. Appending takes the index away first, and cuts
    off a last record that was not finished: `cut_bytes` tells how much. One writer at a time: a second "a" raises
    BlockingIOError. FileExistsError for "x" where the file is there; RecordError for "a" where it is damaged.
    """

    def __init__(self, path: Path, mode: str = "w") -> None:
        if mode not in ("w", "x", "a"):
            raise ValueError(f"mode is {mode!r}, expected 'w', 'x' or 'a'")
        self.path = os.fspath(path)
        self.cut_bytes = 0
        self._offsets = array("Q")
        self._end = HEADER_SIZE
        self._fd = -1
        if mode == "a":
            try:
                self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                mode = "x"
        if mode != "a":
            self._fd = _created(self.path, replace=mode == "w")
        self._closing = weakref.finalize(self, os.close, self._fd)
        if mode == "a":
            try:
                self._continue()
            except BaseException:
                self._release()
                raise

    def _continue(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(error.errno, "another writer has the file open", self.path) from None
        contents = _contents(self._fd, self.path)
        self._offsets, self._end = array("Q", contents.offsets), contents.end
        size = os.fstat(self._fd).st_size
        if not contents.complete and self._offsets:
            # A crash of the system may have kept the head of the last record and lost its payload.
            try:
                _payload(self._fd, self.path, self._offsets[-1], self._end)
            except RecordError:
                self._end = self._offsets.pop()
        if not contents.complete and (contents.torn or self._end < contents.end):
            self.cut_bytes = size - self._end
        os.ftruncate(self._fd, self._end)

    def __len__(self) -> int:
        """Records in the file."""
        return len(self._offsets)

    def write(self, record: bytes | bytearray | memoryview | Mapping[str, Any]) -> int:
        """Appends bytes, or a dict of named arrays; returns the record's number.

        When this has returned, the record is in the file, whatever becomes of the process (`sync` is for what may
        become of the machine). Where the system cannot write it, the file is as before.
        """
        if self._fd < 0:
            raise ValueError(f"{self.path}: the writer is closed")
        if isinstance(record, Mapping):
            block = _block(ARRAYS, encode(record))
        elif isinstance(record, (bytes, bytearray, memoryview)):
            block = _block(BYTES, bytes(record))
        else:
            raise TypeError(f"a record of type {type(record).__name__}, expected bytes or a dict of arrays")
        self._put(block)
        self._offsets.append(self._end)
        self._end += len(block)
        return len(self._offsets) - 1

    def _put(self, data: bytes) -> None:
        view, at = memoryview(data), self._end
        try:
            while view:
                done = os.pwrite(self._fd, view, at)
                view, at = view[done:], at + done
        except BaseException:
            os.ftruncate(self._fd, self._end)
            raise

    def sync(self) -> None:
        """Waits until what was written is on the disk."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Adds the index and closes the file."""
        if self._fd < 0:
            return
        try:
            index = _block(INDEX, np.asarray(self._offsets, "<u8").tobytes())
            trailer = _sealed(TRAILER.pack(self._end, len(self._offsets), 0)) + END_MAGIC
            self._put(index + trailer)
            os.ftruncate(self._fd, self._end + len(index) + len(trailer))  # of a write that Ctrl-C came after
        finally:
            self._release()

    def _release(self) -> None:
        self._fd = -1
        self._closing()


def _created(path: str, replace: bool) -> int:
    """A new file with a header, locked. It has its name only when the header is in it, so there are no empty files."""
    temporary = f"{path}.{os.getpid()}.new"
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.pwrite(fd, _sealed(HEADER.pack(MAGIC, VERSION)), 0)
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)
            os.unlink(temporary)
    except BaseException:
        os.close(fd)
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    return fd


class RecordDataset(Dataset):
    """The records of one or several files, one after another, each given to `transform` where there is one.

    A part of a file: `Subset(dataset, dataset.readers[0].shard(0, 4))`.
    """

    def __init__(self, paths: Path | Sequence[Path], transform: Callable[[Any], Any] | None = None) -> None:
        given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        if not given:
            raise ValueError("RecordDataset: expected at least one file")
        self.readers = [RecordReader(path) for path in given]
        self.transform = transform
        self._ends = list(accumulate(map(len, self.readers)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Any:
        place = checked_index(index, len(self), "RecordDataset")
        part = bisect_right(self._ends, place)
        record = self.readers[part][place - (self._ends[part - 1] if part else 0)]
        return record if self.transform is None else self.transform(record)
