"""NVIDIA's run-time compiler, called without a GPU."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
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


def compiled(source: str, architecture: str) -> tuple[int, str]:
    """(status, log) of a source compiled with the flags that devices compile with; 0: compiled."""
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
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return status, log.value.decode()
