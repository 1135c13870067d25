"""Checkpoints: what goes in comes out with the same bits, or an error says that it cannot."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import dagrun as dr
from dagrun.train import CheckpointError, latest_checkpoint, load_checkpoint, save_checkpoint
from dagrun.train.checkpoint import FORMAT, _checksum, write_atomically


def same(a: Any, b: Any) -> bool:
    """Types, structure and bits."""
    if isinstance(a, dr.Array):
        return isinstance(b, dr.Array) and same(a.numpy(), b.numpy())
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and (a.dtype.newbyteorder("="), a.shape) == (b.dtype, b.shape) and (
            a.astype(b.dtype).tobytes() == b.tobytes()
        )  # fmt: skip
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (repr(a) == repr(b))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
ARRAYS = hnp.arrays(
    st.sampled_from(["float16", "float32", "float64", "int8", "int64", "uint8", "uint64", "bool", ">f4", ">i8"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
KEYS = st.text() | st.integers() | st.tuples(st.integers(), st.text()) | st.booleans()
STATES = st.recursive(
    SCALARS | ARRAYS | ARRAYS.map(dr.asarray),
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(state=STATES)
def test_what_goes_in_comes_out(state: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = save_checkpoint(tmp_path_factory.mktemp("state") / "a.safetensors", state)
    assert same(state, load_checkpoint(path))


def test_names_that_would_fall_together(tmp_path: Path) -> None:
    one, two = dr.ones(1), dr.zeros(2)
    state = {"a/b": one, "a": {"b": two}, 1: one, "1": two, "__metadata__": two, "": one}
    assert same(state, load_checkpoint(save_checkpoint(tmp_path / "a", state)))
    assert same(one, load_checkpoint(save_checkpoint(tmp_path / "b", one)))


def test_any_reader_of_safetensors_can_open_it(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    path = save_checkpoint(tmp_path / "a.safetensors", {"module": dr.nn.Linear(2, 3).state_dict(), "steps": 3})
    assert {k: v.shape for k, v in load_file(path).items()} == {"module/weight": (3, 2), "module/bias": (3,)}


def test_arrays_of_any_device_come_back_on_the_one_asked_for(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "a", {"x": dr.ones(3, device="sim:1"), "y": np.ones(2)})
    state = load_checkpoint(path, device="cpu:1")
    assert state["x"].device is dr.device("cpu:1") and isinstance(state["y"], np.ndarray)


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="checkpoint: a/0 is a set, expected arrays"):
        save_checkpoint(tmp_path / "a", {"a": [{1}]})
    with pytest.raises(TypeError, match="checkpoint: c has dtype complex128"):
        save_checkpoint(tmp_path / "a", {"c": np.ones(1, complex)})
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_checkpoint(tmp_path / "a", {"n": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert load_checkpoint(path) == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_failed_computation_is_no_checkpoint(tmp_path: Path) -> None:
    @dr.custom_op
    def broken(x: np.ndarray) -> np.ndarray:
        raise ArithmeticError("no value")

    with pytest.raises(ArithmeticError, match="no value"):
        save_checkpoint(tmp_path / "a", {"x": broken(dr.ones(3))})
    assert not list(tmp_path.iterdir())


# ---- damage


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Any]:
    state = {"w": dr.asarray(np.arange(6.0).reshape(2, 3)), "m": {0: dr.ones(5, "float32")}, "steps": 7, "lr": 0.1}
    path = save_checkpoint(tmp_path_factory.mktemp("good") / "a", state)
    return path.read_bytes(), state


def damaged(content: bytes, path: Path) -> Any:
    path.write_bytes(content)
    return load_checkpoint(path)


def test_truncated_anywhere(good: tuple[bytes, Any], tmp_path: Path) -> None:
    content, _ = good
    for length in range(len(content)):
        with pytest.raises(CheckpointError, match=r"checkpoint .*: "):
            damaged(content[:length], tmp_path / "a")
    with pytest.raises(CheckpointError):
        damaged(content + b"\0", tmp_path / "a")


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_flipped_bytes_are_never_read_as_another_state(data: st.DataObject, tmp_path_factory: Any, good: Any) -> None:
    content, state = good
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = damaged(bytes(changed), tmp_path_factory.mktemp("flip") / "a")
    except CheckpointError:
        return
    assert same(state, found)  # a blank of the header's padding became another blank, at most


def test_every_byte_flipped(good: tuple[bytes, Any], tmp_path: Path) -> None:
    content, state = good
    read = 0
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0x40
        try:
            assert same(state, damaged(bytes(changed), tmp_path / "a")), place
            read += 1
        except CheckpointError:
            pass
    assert read == 0


def hostile(header: Any, rest: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def forged(state: str) -> dict[str, Any]:
    return {"__metadata__": {FORMAT: f"{_checksum(state, {})} {state}"}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", (100 << 20) - 1) + b"{}",
        hostile(b"[" * 100_000),
        hostile({}),
        hostile({"__metadata__": {"format": "another"}}),
        hostile({"__metadata__": {FORMAT: ""}}),
        hostile({"__metadata__": {FORMAT: "00000000 {}"}}),
        hostile({"x": {"dtype": "F64", "shape": [1 << 40], "data_offsets": [0, 8 << 40]}}),
        hostile({"x": {"dtype": "F64", "shape": [1 << 62, 8], "data_offsets": [0, 0]}}),
        hostile({"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
        hostile({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"1234"),
        hostile({"x": {"dtype": "Q7", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
        hostile({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}, "b": {"dtype": "U8", "shape": [4],
                 "data_offsets": [0, 4]}}, b"1234"),
        hostile(forged("[" * 100_000 + "]" * 100_000)),
        hostile(forged("not json")),
        hostile(forged('{"\\u0000array": "missing"}')),
        hostile(forged('{"\\u0000array": [1]}')),
        hostile(forged('{"\\u0000items": [[[1], 2]]}')),
        hostile(forged('{"\\u0000items": 5}')),
    ],
)  # fmt: skip
def test_hostile_files_are_refused_in_little_memory(content: bytes, tmp_path: Path) -> None:
    import tracemalloc

    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"checkpoint .*: "):
            damaged(content, tmp_path / "a")
        assert tracemalloc.get_traced_memory()[1] < 30 << 20
    finally:
        tracemalloc.stop()


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no such file"):
            load_checkpoint(path)


def test_the_latest_that_is_whole(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "none") is None
    for step in (1, 2, 10):
        save_checkpoint(tmp_path / f"step-{step:09d}.safetensors", {"step": step})
    newest = tmp_path / "step-000000010.safetensors"
    assert latest_checkpoint(tmp_path) == newest
    newest.write_bytes(newest.read_bytes()[:-1])
    assert load_checkpoint(latest_checkpoint(tmp_path)) == {"step": 2}
