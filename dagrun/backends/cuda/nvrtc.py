"""CUDA C++ to machine code through NVRTC's C interface (CUDA Toolkit documentation, "NVRTC")."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import threading
from pathlib import Path

from dagrun.config import cache_directory


@functools.cache
def _library(path: str) -> ctypes.CDLL:
    return ctypes.CDLL(path)


def _check(library: ctypes.CDLL, result: int, what: str) -> None:
    if result:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise RuntimeError(f"NVRTC: {what}: {library.nvrtcGetErrorString(result).decode()}")


@functools.cache
def _headers(include: str) -> str:
    """A digest of the headers that sources include."""
    digest = hashlib.sha256()
    for path in sorted(Path(include).glob("*.cuh")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def version_of(path: str) -> str:
    """NVRTC's version, such as "13.0"."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    library = _library(path)
    _check(library, library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "no version")
    return f"{major.value}.{minor.value}"


@functools.cache
def _known_capabilities(path: str) -> tuple[int, ...]:
    library = _library(path)
    count = ctypes.c_int()
    _check(library, library.nvrtcGetNumSupportedArchs(ctypes.byref(count)), "no architectures")
    found = (ctypes.c_int * count.value)()
    _check(library, library.nvrtcGetSupportedArchs(found), "no architectures")
    return tuple(found)


def architecture_for(path: str, capability: int) -> str:
    """What to compile for: a GPU's machine code. For a GPU newer than this NVRTC: the code for any GPU from the newest
    that it knows on (PTX), which the driver translates."""
    known = _known_capabilities(path)
    older = [other for other in known if other < capability]
    return f"sm_{capability}" if capability in known or not older else f"compute_{max(older)}"


def compile_cached(path: str, source: str, name: str, include: str, options: tuple[str, ...]) -> bytes:
    """`compile_source`, with what was compiled before kept beside the CPU's kernels."""
    text = "\0".join((version_of(path), _headers(include), source, *options))
    kept = cache_directory() / f"cuda-{hashlib.sha256(text.encode()).hexdigest()}.image"
    try:
        return kept.read_bytes()
    except OSError:
        pass
    image = compile_source(path, source, name, options)
    try:  # a cache that cannot be written costs time only
        kept.parent.mkdir(parents=True, exist_ok=True)
        half = kept.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        half.write_bytes(image)
        half.replace(kept)
    except OSError:
        pass
    return image


def compile_source(path: str, source: str, name: str, options: tuple[str, ...]) -> bytes:
    """The machine code of a source, or PTX for an architecture "compute_...", by the NVRTC library at `path`. Raises
    RuntimeError with the compiler's log."""
    library = _library(path)
    program = ctypes.c_void_p()
    made = library.nvrtcCreateProgram(
        ctypes.byref(program), source.encode(), f"{name}.cu".encode(), 0, None, None
    )  # no headers: they are found by -I
    _check(library, made, "no program can be made")
    try:
        words = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if library.nvrtcCompileProgram(program, len(options), words):
            size = ctypes.c_size_t()
            library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value + 1)
            library.nvrtcGetProgramLog(program, log)
            raise RuntimeError(f"NVRTC does not take the source of {name}:\n{log.value.decode(errors='replace')}")
        for kind in ("CUBIN", "PTX"):  # there is no cubin for an architecture that is no machine's
            size = ctypes.c_size_t()
            _check(library, library[f"nvrtcGet{kind}Size"](program, ctypes.byref(size)), "no size of the code")
            if size.value:
                break
        image = ctypes.create_string_buffer(size.value)
        _check(library, library[f"nvrtcGet{kind}"](program, image), "no code")
        return image.raw
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
