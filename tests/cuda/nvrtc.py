"""NVIDIA's run-time compiler, called without a GPU."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import struct
from pathlib import Path

from dagrun.codegen.cuda.registry import include_directory


@functools.cache
def library() -> ctypes.CDLL | None:
    """NVRTC as the package nvidia-cuda-nvrtc-cu12 (or CUDA 13's) brings it, or None."""
    for package in ("nvidia.cuda_nvrtc", "nvidia.cu13"):
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            continue
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for path in sorted(Path(folder, "lib").glob("libnvrtc.so.*")):
                if "alt" not in path.name and "builtins" not in path.name:
                    return ctypes.CDLL(str(path))
    return None


def compiled(source: str, architecture: str) -> tuple[int, str, bytes]:
    """(status, log, machine code) of a source compiled with the flags that devices compile with; 0: compiled."""
    nvrtc = library()
    assert nvrtc is not None
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    status = nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
    assert status == 0, f"nvrtcCreateProgram: {status}"
    options = [b"-fmad=false", b"-std=c++17", f"-I{include_directory()}".encode(), f"-arch={architecture}".encode()]
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    code = ctypes.create_string_buffer(0 if status else size.value)
    nvrtc.nvrtcGetCUBIN(program, code)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return status, log.value.decode(), code.raw


def registers(code: bytes) -> dict[str, int]:
    """How many registers a thread of each kernel takes: they stand in the headers of ELF sections, up to sm_89."""
    (table,), (size, count, names) = struct.unpack_from("<Q", code, 40), struct.unpack_from("<3H", code, 58)
    sections = [struct.unpack_from("<2I4Q2I", code, table + size * i) for i in range(count)]
    found = {}
    for section in sections:
        start = sections[names][4] + section[0]
        name = code[start : code.index(b"\0", start)].decode()
        if name.startswith(".text."):
            found[name[6:]] = section[7] >> 24
    return found
