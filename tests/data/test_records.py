"""Record files: what is written is read, after kills, cuts and appends; damage is an error, never another value."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dagrun as dr
from dagrun import data
from dagrun.data import records
from dagrun.data.record_arrays import DTYPES, decode, encode

RECORDS = [b"", b"one", b"x" * 1000, b"\0" * 64, bytes(range(256))]


def written(path: Path, items: list[Any] | None = None) -> bytes:
    with data.RecordWriter(path) as writer:
        for item in RECORDS if items is None else items:
            writer.write(item)
    return path.read_bytes()


def block_ends(raw: bytes) -> list[int]:
    """Where each record of a file ends, by the format's description alone."""
    ends, at = [], 16
    while True:
        kind, length = struct.unpack_from("<IQ", raw, at + 4)
        if kind == 3:
            return ends
        at += 24 + (length + 7) // 8 * 8
        ends.append(at)


def test_bytes_and_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    arrays = {"x": np.arange(6.0).reshape(2, 3), "label": np.int8(3), "dr": dr.arange(3), "none": np.zeros((0, 4))}
    with data.RecordWriter(path) as writer:
        assert [writer.write(b"hello"), writer.write(arrays), len(writer)] == [0, 1, 2]
    with data.RecordReader(path) as reader:
        assert len(reader) == 2 and reader.complete and reader.torn is None
        assert reader[0] == b"hello"
        back = reader[-1]
        assert list(back) == list(arrays) and all(not x.flags.writeable and x.flags.aligned for x in back.values())
        for name, x in arrays.items():
            np.testing.assert_array_equal(back[name], np.asarray(x), strict=True)
        with pytest.raises(IndexError):
            reader[2]
    with pytest.raises(OSError):
        reader[0]
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"late")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_layout(dtype: np.dtype[Any]) -> None:
    x = np.random.default_rng(0).integers(0, 2, (3, 4)).astype(dtype)
    for value in (x, x.T, x[::2, ::-1], x.astype(dtype.newbyteorder(">")), np.asarray(x[1, 2])):
        np.testing.assert_array_equal(decode(memoryview(encode({"é": value})))["é"], value)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with data.RecordWriter(tmp_path / "a.rec") as writer:
        for bad in ({"x": np.array(["a"])}, {"x": np.complex64(1)}, {"x": [None]}, 5, "text"):
            with pytest.raises(TypeError):
                writer.write(bad)
        with pytest.raises(ValueError, match="65535"):
            writer.write({"n" * 70000: 1})
        writer.write(b"good")
    assert list(data.RecordReader(tmp_path / "a.rec")) == [b"good"]
    with pytest.raises(ValueError, match="mode"):
        data.RecordWriter(tmp_path / "a.rec", "r")


def test_the_layout_in_the_documentation(tmp_path: Path) -> None:
    """Byte for byte, by hand."""

    def sealed(raw: bytes) -> bytes:
        return raw + struct.pack("<I", zlib.crc32(raw))

    payload = struct.pack("<I", 1) + struct.pack("<HBB", 1, 2, 1) + b"x" + struct.pack("<Q", 2) + b"\0" * 7
    payload += struct.pack("<2h", 5, -6) + b"\0" * 4
    blocks = sealed(struct.pack("<4sIQI", b"blk\n", 1, 3, zlib.crc32(b"one"))) + b"one" + b"\0" * 5
    blocks += sealed(struct.pack("<4sIQI", b"blk\n", 2, len(payload), zlib.crc32(payload))) + payload
    offsets = struct.pack("<2Q", 16, 48)
    index = sealed(struct.pack("<4sIQI", b"blk\n", 3, 16, zlib.crc32(offsets))) + offsets
    expected = sealed(struct.pack("<8sI", b"\x89dagrec\n", 1)) + blocks + index
    expected += sealed(struct.pack("<QQI", 16 + len(blocks), 2, 0)) + b"\x89dagend\n"
    assert written(tmp_path / "a.rec", [b"one", {"x": np.int16([5, -6])}]) == expected


def test_modes(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    written(path, [b"old"])
    old = data.RecordReader(path)
    with pytest.raises(FileExistsError):
        data.RecordWriter(path, "x")
    with data.RecordWriter(path, "a") as writer:
        assert len(writer) == 1 and writer.write(b"more") == 1 and writer.cut_bytes == 0
        assert not data.RecordReader(path).complete  # its index is gone until the writer closes
    assert list(data.RecordReader(path)) == [b"old", b"more"] and data.RecordReader(path).complete
    written(path, [b"new"])
    assert list(data.RecordReader(path)) == [b"new"]
    assert list(old) == [b"old"]  # "w" makes another file: who reads the old one goes on reading it
    with data.RecordWriter(tmp_path / "b.rec", "a") as writer:
        writer.write(b"first")
    with data.RecordWriter(tmp_path / "c.rec", "x"):
        pass
    assert len(data.RecordReader(tmp_path / "b.rec")) == 1 and len(data.RecordReader(tmp_path / "c.rec")) == 0
    assert sorted(os.listdir(tmp_path)) == ["a.rec", "b.rec", "c.rec"]
    with pytest.raises(FileNotFoundError):
        data.RecordReader(tmp_path / "missing.rec")


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with data.RecordWriter(tmp_path / "a.rec") as writer:
        writer.write(b"mine")
        with pytest.raises(BlockingIOError, match="another writer"):
            data.RecordWriter(tmp_path / "a.rec", "a")
    with data.RecordWriter(tmp_path / "a.rec", "a") as writer:
        assert len(writer) == 1


def test_a_file_cut_anywhere_gives_the_whole_records_and_can_be_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    raw = written(path)
    ends = block_ends(raw)
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        if length < 16:
            with pytest.raises(data.RecordError, match="at byte 0"):
                data.RecordReader(path)
            with pytest.raises(data.RecordError, match="at byte 0"):
                data.RecordWriter(path, "a")
            continue
        whole = sum(end <= length for end in ends)
        with data.RecordReader(path) as reader:
            assert list(reader) == RECORDS[:whole] and not reader.complete
            at_edge = length in (16, *ends) or length >= ends[-1] + 24
            assert (reader.torn is None) == at_edge
        with data.RecordWriter(path, "a") as writer:
            assert len(writer) == whole
            assert (writer.cut_bytes > 0) == (not at_edge)
            writer.write(b"appended")
        with data.RecordReader(path) as reader:
            assert list(reader) == [*RECORDS[:whole], b"appended"] and reader.complete


def test_any_flipped_bit_is_an_error_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    raw = written(path, [*RECORDS[:2], {"x": np.arange(3)}])
    expected = [repr(record) for record in data.RecordReader(path)]
    errors = 0
    for at in range(len(raw)):
        for bit in range(8):
            damaged = bytearray(raw)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                with data.RecordReader(path) as reader:
                    assert len(reader) == 3  # with or without the index
                    for i in range(3):
                        try:
                            assert repr(reader[i]) == expected[i]
                        except data.RecordError as error:
                            assert error.path == str(path) and 16 <= error.offset < len(raw)
                            errors += 1
            except data.RecordError:
                assert at < 16
                errors += 1
    assert errors > 8 * 100


def rewritten(path: Path, raw: bytes, change: Callable[[bytearray], None]) -> data.RecordReader:
    edited = bytearray(raw)
    change(edited)
    path.write_bytes(edited)
    return data.RecordReader(path)


def test_damage_without_an_index(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    raw = written(path)
    ends = block_ends(raw)
    body = bytearray(raw[: ends[-1]])
    body[ends[1] + 1] ^= 1  # the head of record 2
    path.write_bytes(body)
    with pytest.raises(data.RecordError, match=f"{path}: at byte {ends[1]}: .*expected a block.*the 2 records before"):
        data.RecordReader(path)
    with pytest.raises(data.RecordError):
        data.RecordWriter(path, "a")  # damage is not cut off
    assert path.read_bytes() == body
    reader = data.RecordReader(path, salvage=True)
    assert list(reader) == RECORDS[:2] and f"at byte {ends[1]}" in str(reader.torn)


def test_what_a_crash_of_the_system_leaves(tmp_path: Path) -> None:
    """The file had grown, its last bytes were not on the disk: zeros, or a record whose payload is not there."""
    path = tmp_path / "a.rec"
    raw = written(path)
    ends = block_ends(raw)
    for zeros in (1, 24, 5000):
        path.write_bytes(raw[: ends[1]] + b"\0" * zeros)
        assert list(data.RecordReader(path)) == RECORDS[:2]
        with data.RecordWriter(path, "a") as writer:
            assert len(writer) == 2 and writer.cut_bytes == zeros
    lost = raw[: ends[1] + 24] + b"\0" * (ends[2] - ends[1] - 24)
    path.write_bytes(lost)
    with pytest.raises(data.RecordError, match="do not match their checksum"):
        data.RecordReader(path)[2]
    with data.RecordWriter(path, "a") as writer:
        assert len(writer) == 2 and writer.cut_bytes == ends[2] - ends[1]
    assert list(data.RecordReader(path)) == RECORDS[:2]


def test_hostile_lengths_take_no_memory(tmp_path: Path) -> None:
    import tracemalloc

    def head(kind: int, length: int, crc: int = 0) -> bytes:
        raw = struct.pack("<4sIQI", b"blk\n", kind, length, crc)
        return raw + struct.pack("<I", zlib.crc32(raw))

    def trailer(begin: int, count: int) -> bytes:
        raw = struct.pack("<QQI", begin, count, 0)
        return raw + struct.pack("<I", zlib.crc32(raw)) + b"\x89dagend\n"

    path = tmp_path / "a.rec"
    start = written(path, [])[:16]
    tails = [head(1, n) for n in (1, 2**31, 2**40, 2**63, 2**64 - 1)]
    tails += [head(3, n) + trailer(16, n // 8) for n in (8, 2**40, 2**64 - 8)]
    tails += [trailer(b, c) for b in (0, 2**63, 2**64 - 8) for c in (0, 1, 2**61, 2**64 - 1)]
    for offsets in ((2**64 - 8,), (16, 2**64 - 8), (16, 16), (24,), (17,), (40, 16)):
        payload = struct.pack(f"<{len(offsets)}Q", *offsets)
        tails.append(head(3, len(payload), zlib.crc32(payload)) + payload + trailer(16, len(offsets)))
    tracemalloc.start()
    for tail in tails:
        path.write_bytes(start + tail)
        try:
            with data.RecordReader(path) as reader:
                assert len(reader) == 0 and not reader.complete
        except data.RecordError as error:
            assert error.offset == 16
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    for shape in ((2**40,), (2**32, 2**32), (0, 2**63), (1,) * 100):
        payload = struct.pack("<I", 1) + struct.pack("<HBB", 1, 5, len(shape)) + b"x"
        payload += struct.pack(f"<{len(shape)}Q", *shape)
        payload += b"\0" * (-len(payload) % 8) + b"\0" * 8
        for cut in (payload, payload[:-8]):
            with pytest.raises(ValueError, match=r"payload|shape|follow"):
                decode(memoryview(cut))
    with pytest.raises(ValueError, match="entry of array 0 needs 4 bytes, but 0 are left"):
        decode(memoryview(struct.pack("<I", 2**32 - 1)))


@pytest.mark.parametrize("content", [b"", b"\x89dagrec", b"PNG" * 100, b"\x89dagrec\n" + b"\0" * 8])
def test_what_is_no_record_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.rec"
    path.write_bytes(content)
    with pytest.raises(data.RecordError, match=r"a\.rec: at byte 0: "):
        data.RecordReader(path)


def test_other_versions(tmp_path: Path) -> None:
    raw = struct.pack("<8sI", b"\x89dagrec\n", 2)
    (tmp_path / "a.rec").write_bytes(raw + struct.pack("<I", zlib.crc32(raw)))
    with pytest.raises(data.RecordError, match="version 2 of the format, expected 1"):
        data.RecordReader(tmp_path / "a.rec")


FUZZ = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(edits=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=12)), max_size=4), keep=st.floats(0, 1))
def test_fuzzed_files(tmp_path: Path, edits: list[tuple[float, bytes]], keep: float) -> None:
    """Bytes overwritten anywhere, then the file cut: each record is as written or an error; so is appending."""
    path = tmp_path / "fuzzed.rec"
    raw = bytearray(written(path))
    for place, content in edits:
        at = int(place * len(raw))
        raw[at : at + len(content)] = content
    path.write_bytes(raw[: int(keep * len(raw)) if keep < 0.9 else None])
    for salvage in (False, True):
        try:
            reader = data.RecordReader(path, salvage=salvage)
        except data.RecordError as error:
            assert str(path) in str(error) and ("expected" in str(error) or "checksum" in str(error))
            continue
        for i in range(len(reader)):
            try:
                assert reader[i] == RECORDS[i]
            except data.RecordError as error:
                assert error.offset >= 16
    try:
        with data.RecordWriter(path, "a") as writer:
            number = writer.write(b"after")
        assert data.RecordReader(path)[number] == b"after"
    except data.RecordError:
        pass


@FUZZ
@given(payload=st.binary(max_size=80))
def test_fuzzed_payloads(payload: bytes) -> None:
    try:
        arrays = decode(memoryview(payload))
    except ValueError:
        return
    assert encode(arrays) == payload


@FUZZ
@given(at=st.integers(0, 87), value=st.integers(0, 255))
def test_edited_payloads(at: int, value: int) -> None:
    raw = bytearray(encode({"a": np.arange(4, dtype="i4"), "flag": np.array([True, False]), "": np.float16(1)}))
    raw[at % len(raw)] = value
    try:
        arrays = decode(memoryview(bytes(raw)))
    except ValueError:
        return
    assert encode(arrays) == raw


def test_killed_writers_leave_whole_records(tmp_path: Path) -> None:
    """A process that writes for ever is killed; each record whose number it told is in the file."""
    program = """
import sys
from dagrun import data
writer = data.RecordWriter(sys.argv[1], "a")
number = len(writer)
while True:
    writer.write(bytes([number % 251]) * (number * 37 % 5000))
    print(number, flush=True)
    number += 1
"""
    path = tmp_path / "a.rec"
    least = 0
    for kill in range(3):
        process = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(50 + 7 * kill)]
        process.send_signal(signal.SIGKILL)
        told += [int(line) for line in process.stdout.read().splitlines() if line]
        process.wait()
        process.stdout.close()
        assert told[0] >= least
        least = told[-1]
        records = list(data.RecordReader(path))
        assert len(records) > least
        assert records == [bytes([i % 251]) * (i * 37 % 5000) for i in range(len(records))]


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.rec"
    with data.RecordWriter(path) as writer:
        writer.write(b"first")
        size = path.stat().st_size
        true_pwrite = os.pwrite

        def half(fd: int, view: Any, at: int) -> int:
            if at > size:
                raise OSError(28, "No space left on device")
            return true_pwrite(fd, view[: len(view) // 2], at)

        monkeypatch.setattr(records.os, "pwrite", half)
        with pytest.raises(OSError, match="No space left"):
            writer.write(b"second" * 100)
        monkeypatch.undo()
        assert path.stat().st_size == size
        writer.write(b"third")
    assert list(data.RecordReader(path)) == [b"first", b"third"]


def test_many_threads_read_one_file(tmp_path: Path) -> None:
    items = [bytes([i % 256]) * (i * 7 % 300) for i in range(500)]
    written(tmp_path / "a.rec", items)
    reader = data.RecordReader(tmp_path / "a.rec")
    together = threading.Barrier(4)

    def read(part: int) -> list[Any]:
        together.wait(60)
        return [reader[i] for i in reader.shard(part, 4)]

    with ThreadPoolExecutor(4) as pool:
        assert [record for part in pool.map(read, range(4)) for record in part] == items
    with pytest.raises(ValueError, match="shard 4 of 4"):
        reader.shard(4, 4)


def test_record_datasets(tmp_path: Path) -> None:
    for name, numbers in (("a", range(5)), ("b", range(0)), ("c", range(5, 12))):
        written(tmp_path / f"{name}.rec", [{"x": np.float32([i, i]), "y": i} for i in numbers])
    dataset = data.RecordDataset([tmp_path / f"{name}.rec" for name in "abc"], lambda r: (r["x"] * 2, r["y"]))
    assert len(dataset) == 12 and dataset[-1][0].tolist() == [22, 22]
    loader = data.DataLoader(dataset, 4, num_workers=2)
    assert [y.tolist() for _, y in loader] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    batch = next(iter(data.DataLoader(data.RecordDataset(tmp_path / "a.rec"), 2)))
    assert batch["x"].tolist() == [[0, 0], [1, 1]] and batch["y"].tolist() == [0, 1]


def test_damage_comes_home_through_the_loader(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    raw = bytearray(written(path))
    raw[block_ends(raw)[1] + 24] ^= 1
    path.write_bytes(raw)
    with pytest.raises(
        data.LoaderError, match=r"batch 2 of epoch 0, sample 2: RecordError: .*a\.rec: at byte"
    ) as caught:
        list(data.DataLoader(data.RecordDataset(path), num_workers=2))
    assert isinstance(caught.value.__cause__, data.RecordError)
