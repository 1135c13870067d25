"""Where the CUDA libraries are: beside Python packages, in a toolkit's folder, or where the system's loader looks."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from ctypes.util import find_library
from pathlib import Path

VERSIONS = ("13", "12")
_FOLDERS = {"nvrtc": ("cu13/lib", "cuda_nvrtc/lib"), "cublas": ("cu13/lib", "cublas/lib")}


def _folders(stem: str) -> Iterator[Path]:
    found = importlib.util.find_spec("nvidia")  # a namespace that NVIDIA's wheels share
    for root in (found.submodule_search_locations or ()) if found else ():
        for folder in _FOLDERS[stem]:
            yield Path(root, folder)
    for variable in ("CUDA_PATH", "CUDA_HOME"):
        if os.environ.get(variable):
            yield Path(os.environ[variable], "lib64")
            yield Path(os.environ[variable], "lib")
    yield Path(sys.prefix, "lib")
    yield Path("/usr/local/cuda/lib64")


def cuda_library(stem: str) -> str:
    """The path or name of "nvrtc" or "cublas"; empty where there is none."""
    for folder in _folders(stem):
        for version in VERSIONS:
            path = folder / f"lib{stem}.so.{version}"
            if path.exists():
                return str(path)
    return find_library(stem) or ""
