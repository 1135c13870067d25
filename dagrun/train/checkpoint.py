"""Checkpoints: nested state in one safetensors file, written atomically and checked when read.

A state is a nest of dicts, lists and tuples of arrays, NumPy arrays, numbers, strings, booleans and None. Arrays become
tensors of the file, everything else its metadata (as JSON), so that any reader of safetensors can open it
(https://github.com/huggingface/safetensors). The format has no checksums of its own: a CRC-32 of all contents stands
before the JSON. Equal states give equal files. A file is written under another name, flushed to the disk and renamed:
whatever moment the process is killed at, the last good checkpoint stays.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from dagrun.array import Array, asarray
from dagrun.autodiff import no_grad
from dagrun.errors import DagrunError

FORMAT = "dagrun checkpoint 1"
# Marks in the JSON of what JSON does not have: a dict with one of them as its only key.
_ARRAY, _NUMPY, _TUPLE, _ITEMS = "\x00array", "\x00numpy", "\x00tuple", "\x00items"

UNFINISHED = ".part"  # how the names of files end that are being written, or were when the process was killed

Tensors = dict[str, np.ndarray[Any, Any]]


class CheckpointError(DagrunError, ValueError):
    """A file that is no checkpoint, or a damaged one."""


def _encode(node: Any, tensors: Tensors, path: str) -> Any:
    if isinstance(node, Array):
        return {_ARRAY: _put(node.detach().numpy(), tensors, path)}
    if isinstance(node, np.ndarray):
        return {_NUMPY: _put(node, tensors, path)}
    if isinstance(node, np.generic):
        return _encode(node.item(), tensors, path)
    if isinstance(node, dict):
        if all(isinstance(key, str) and not key.startswith("\x00") for key in node):
            return {key: _encode(item, tensors, f"{path}/{key}" if path else key) for key, item in node.items()}
        items = [
            [_encode(key, tensors, f"{path}/key {i}"), _encode(item, tensors, f"{path}/{key}")]
            for i, (key, item) in enumerate(node.items())
        ]
        return {_ITEMS: items}
    if isinstance(node, (list, tuple)):
        items = [_encode(item, tensors, f"{path}/{i}") for i, item in enumerate(node)]
        return {_TUPLE: items} if isinstance(node, tuple) else items
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    raise TypeError(
        f"checkpoint: {path or 'the state'} is a {type(node).__name__}, expected arrays, numbers, strings, None, or "
        "dicts, lists and tuples of them"
    )


def _put(values: np.ndarray[Any, Any], tensors: Tensors, path: str) -> str:
    """Takes an array in, contiguous and little-endian, under a name of its own."""
    if values.dtype.kind not in "biuf" or values.dtype.itemsize > 8:
        raise TypeError(
            f"checkpoint: {path or 'the state'} has dtype {values.dtype}, expected booleans or real numbers"
        )
    name = path or "array"
    while name in tensors or name == "__metadata__":
        name += "'"
    tensors[name] = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).reshape(values.shape)
    return name


def _decode(node: Any, tensors: Tensors, device: Any) -> Any:
    if isinstance(node, list):
        return [_decode(item, tensors, device) for item in node]
    if not isinstance(node, dict):
        return node
    if _ARRAY in node:
        return asarray(tensors[node[_ARRAY]], device=device)
    if _NUMPY in node:
        return tensors[node[_NUMPY]]
    if _TUPLE in node:
        return tuple(_decode(item, tensors, device) for item in node[_TUPLE])
    if _ITEMS in node:
        return {_decode(key, tensors, device): _decode(item, tensors, device) for key, item in node[_ITEMS]}
    return {key: _decode(item, tensors, device) for key, item in node.items()}


def _checksum(state: str, tensors: Tensors) -> str:
    crc = zlib.crc32(state.encode())
    for name in sorted(tensors):
        values = tensors[name]
        crc = zlib.crc32(f"{name} {values.dtype.str} {values.shape}".encode(), crc)
        crc = zlib.crc32(values.reshape(-1).view(np.uint8).data, crc)
    return f"{crc:08x}"


def save_checkpoint(path: str | os.PathLike[str], state: Any) -> Path:
    """Writes a state to a file, all of it or nothing; waits for its arrays. Returns the path.

    >>> import dagrun as dr, tempfile, os
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = dr.train.save_checkpoint(os.path.join(folder, "a.safetensors"), {"w": dr.ones(2), "step": 7})
    ...     dr.train.load_checkpoint(path)
    {'w': array([1., 1.]), 'step': 7}
    """
    path = Path(path)
    tensors: Tensors = {}
    text = json.dumps(_encode(state, tensors, ""), allow_nan=True)
    # One entry: safetensors writes several in a random order, and equal states shall be equal files.
    write_atomically(path, save(tensors, {FORMAT: f"{_checksum(text, tensors)} {text}"}))
    return path


def write_atomically(path: Path, content: bytes) -> None:
    """The whole file or the one before: written beside it, flushed to the disk, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too
    finally:
        os.close(folder)


def load_checkpoint(path: str | os.PathLike[str], device: Any = None) -> Any:
    """The state that `save_checkpoint` wrote: dagrun arrays on `device`, NumPy arrays as such.

    CheckpointError where the file is damaged or no checkpoint; it is never larger in memory than a few times the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path}: there is no such file")
    try:
        return _read(path, device)
    except (CheckpointError, OSError):
        raise
    except Exception as error:  # whatever a hostile file makes its readers raise
        raise CheckpointError(f"checkpoint {path}: it cannot be read ({error}): damaged, or no checkpoint") from error


def _read(path: Path, device: Any) -> Any:
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        if FORMAT not in metadata:
            raise CheckpointError(f"checkpoint {path}: metadata {sorted(metadata)}, expected {FORMAT!r}")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    checksum, _, text = metadata[FORMAT].partition(" ")
    if _checksum(text, tensors) != checksum:
        raise CheckpointError(f"checkpoint {path}: the checksum does not fit its contents: the file is damaged")
    with no_grad():
        return _decode(json.loads(text), tensors, device)


def latest_checkpoint(folder: str | os.PathLike[str]) -> Path | None:
    """The newest file `step-<number>.safetensors` in a folder that is whole, or None."""
    found = sorted(Path(folder).glob("step-*.safetensors"), reverse=True)
    for path in found:
        try:
            load_checkpoint(path)
        except (CheckpointError, OSError):
            continue
        return path
    return None
