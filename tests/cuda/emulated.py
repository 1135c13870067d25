"""CUDA without a GPU: the platform that the emulator is. Kernels are the CUDA sources, compiled for the CPU by g++."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dagrun.backends import cuda

HERE = Path(__file__).parent
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
FLAGS = ("-std=c++17", "-fPIC", "-shared", "-pthread", "-w")
KERNEL_FLAGS = ("-O0", "-ffp-contract=off", "-fwrapv", "-fvisibility=hidden")


def _folder() -> Path:
    """Where compiled things are kept from run to run."""
    folder = Path(tempfile.gettempdir(), f"dagrun-emulated-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _compiled(name: str, text: str, *flags: str) -> Path:
    """A shared object of a C++ source, compiled unless it was before."""
    assert COMPILER is not None
    options = [flag for flag in flags if "/" not in flag]  # not where the headers lie: what they say counts
    digest = hashlib.sha256("\0".join((COMPILER, *FLAGS, *options, _headers(), text)).encode()).hexdigest()[:24]
    path = _folder() / f"{name[:40]}-{digest}.so"
    if not path.exists():
        source, made = path.with_suffix(f".{os.getpid()}.cpp"), path.with_suffix(f".{os.getpid()}.tmp")
        source.write_text(text)
        done = subprocess.run(
            [COMPILER, *FLAGS, *flags, str(source), "-o", str(made)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"g++ does not take {source}:\n{done.stderr[:4000]}")
        made.rename(path)
        source.unlink()
    return path


@functools.cache
def _headers() -> str:
    kernels = HERE.parent.parent / "kernels" / "cuda"
    digest = hashlib.sha256()
    for path in (HERE / "host.h", *sorted(kernels.glob("*"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def _host_header() -> str:
    """host.h, compiled once: half the time of a kernel's compilation."""
    folder = _folder() / f"host-{_headers()[:24]}"
    if not folder.exists():
        made = folder.with_suffix(f".{os.getpid()}")
        made.mkdir(exist_ok=True)
        shutil.copy(HERE / "host.h", made)
        command = [
            str(COMPILER),
            *FLAGS,
            *KERNEL_FLAGS,
            "-x",
            "c++-header",
            f"{made}/host.h",
            "-o",
            f"{made}/host.h.gch",
        ]
        subprocess.run(command, check=True)
        try:
            made.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(made)
    return str(folder / "host.h")


class EmulatedPlatform:
    """The emulator's GPUs, whose arrays are NumPy's."""

    overwrite_freed = True
    name = "the emulator of the tests"
    xp = np

    def __init__(self) -> None:
        self._path = str(_compiled("emulator", (HERE / "emulator.cpp").read_text(), "-O1"))
        self.library = ctypes.CDLL(self._path)
        self.library.emulator_host_view.restype = ctypes.c_void_p
        self.library.emulator_host_view.argtypes = (ctypes.c_ulonglong,)
        self.library.emulator_inject.argtypes = (ctypes.c_char_p, ctypes.c_long, ctypes.c_int)
        self.library.emulator_tick.argtypes = (ctypes.c_long,)
        self.library.emulator_pinned_peak.restype = ctypes.c_long

    def driver(self) -> str:
        return self._path

    def blas(self) -> str:
        return self._path

    def compile(self, source: str, name: str, include: str, capability: int) -> bytes:
        return str(_compiled(name, source, *KERNEL_FLAGS, f"-I{include}", "-include", _host_header())).encode() + b"\0"

    @contextmanager
    def computing(self, gpu: int) -> Iterator[None]:
        yield

    def array(
        self, memory: Any, offset: int, shape: Sequence[int], dtype: np.dtype[Any], strides: Sequence[int]
    ) -> np.ndarray[Any, Any]:
        place = self.library.emulator_host_view(memory.address)
        whole = (ctypes.c_char * memory.nbytes).from_address(place)
        return np.ndarray(tuple(shape), dtype, whole, offset, tuple(strides))

    def foreign(self, obj: Any) -> tuple[np.ndarray[Any, Any], int]:
        interface = obj.__cuda_array_interface__
        place = self.library.emulator_host_view(interface["data"][0])
        whole = (ctypes.c_char * obj.nbytes).from_address(place)
        return np.ndarray(interface["shape"], interface["typestr"], whole, strides=interface["strides"]), obj.gpu

    def to_host(self, x: Any) -> np.ndarray[Any, Any]:
        return np.array(x)

    def from_host(self, target: Any, values: np.ndarray[Any, Any]) -> None:
        target[...] = values

    # ---- what tests ask of it

    def inject(self, what: str, countdown: int, result: int) -> None:
        """The countdown-th of these from now on ends in this CUresult: "launch", "fault" (of a launch that runs),
        "allocate", "pinned", "copy", "query"; "record"; "late": the event recorded says so
        many times that it is not ready; "stall": of launches, it does not run before `go_on`."""
        self.library.emulator_inject(what.encode(), countdown, result)

    def null(self, on: bool) -> None:
        """While on, it takes everything at once and runs nothing; to be called when nothing is under way."""
        self.library.emulator_null(int(on))

    def hold(self, on: bool) -> None:
        """While on, nothing that is enqueued runs."""
        self.library.emulator_hold(int(on))

    def go_on(self) -> None:
        """Launches that were stalled run."""
        self.library.emulator_go_on()

    def tick(self, nanoseconds: int) -> None:
        """From now on the clock of each stream counts its kernels and copies, each as so long."""
        self.library.emulator_tick(nanoseconds)

    def misuses(self) -> list[str]:
        """What was done since the last question that a driver would refuse or make slow."""
        text = ctypes.create_string_buffer(1 << 16)
        self.library.emulator_misuses(text, len(text))
        return text.value.decode().splitlines()


@functools.cache
def use_emulator() -> EmulatedPlatform:
    """Makes the emulator the CUDA platform of this process."""
    platform = EmulatedPlatform()
    cuda.use_platform(platform)
    return platform
