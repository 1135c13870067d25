"""Runs CUDA kernels on the CPU through host.h, and compares what they write with what the CPU's kernels write."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dagrun.codegen.cuda.registry import (
    MOST_OPERANDS,
    MOST_PARAMS,
    MOST_SCALARS,
    CublasGemm,
    CudaKernel,
    include_directory,
    kernel_at,
)
from dagrun.codegen.gemm import TRANSPOSED
from dagrun.codegen.target import lowering_for
from dagrun.config import cache_directory
from dagrun.record import Body, Operator, layout
from tests.codegen.harness import call as call_cpu

HOST_HEADER = Path(__file__).with_name("host.h")
# A test of the tests sets these two.
KERNELS = Path(os.environ.get("DAGRUN_TEST_KERNELS", include_directory()))
LIBRARIES = Path(os.environ.get("DAGRUN_TEST_LIBRARIES", cache_directory()))
# No contraction, as NVRTC's -fmad=false; undefined shifts and the like would differ between g++ and NVRTC. As on a GPU,
# an access that is not aligned to its size ends the process.
FLAGS = (
    "-std=c++17", "-O0", "-ffp-contract=off", "-fwrapv", "-fPIC", "-shared", "-fvisibility=hidden", "-w",
    "-fsanitize=alignment", "-fsanitize-undefined-trap-on-error",
)  # fmt: skip
GROUP = 40  # kernels of one call of the compiler

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the CUDA sources with")


class Call(ctypes.Structure):
    """dagrun::Call of kernels/cuda/dagrun.cuh."""

    _fields_ = (
        ("data", ctypes.c_void_p * MOST_OPERANDS),
        ("params", ctypes.c_int64 * MOST_PARAMS),
        ("scalars", ctypes.c_uint64 * MOST_SCALARS),
        ("error", ctypes.c_void_p),
    )


@functools.cache
def _headers() -> str:
    digest = hashlib.sha256()
    for path in (HOST_HEADER, *sorted(KERNELS.glob("*.cuh"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


_libraries: dict[str, ctypes.CDLL] = {}  # of each kernel's name


def load(kernels: Iterable[CudaKernel]) -> None:
    """Compiles the kernels that are not there yet, many with one call; what was compiled once is kept on disk."""
    missing = list({kernel.name: kernel for kernel in kernels if kernel.name not in _libraries}.values())
    groups = [missing[start : start + GROUP] for start in range(0, len(missing), GROUP)]
    running = []
    for group in groups:
        source = "\n".join(kernel.source for kernel in group)
        digest = hashlib.sha256("\n".join((*FLAGS, _headers(), source)).encode()).hexdigest()
        path = LIBRARIES / f"cuda-host-{digest}.so"
        if not path.exists():
            running.append((path, *_start(path, source)))
        for kernel in group:
            _libraries[kernel.name] = path  # type: ignore[assignment]
    for path, process, folder in running:
        _, errors = process.communicate()
        if process.returncode:
            raise AssertionError(f"g++ does not take the CUDA sources in {folder}:\n{errors[:4000]}")
        os.replace(folder / "kernels.so", path)
        shutil.rmtree(folder)
    for group in groups:
        library = ctypes.CDLL(str(_libraries[group[0].name]))
        for kernel in group:
            _libraries[kernel.name] = library


def _start(path: Path, source: str) -> tuple[subprocess.Popen, Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=".cuda-"))
    text = folder / "kernels.cu"
    text.write_text(source)
    command = ["g++", *FLAGS, "-include", str(HOST_HEADER), "-I", str(KERNELS), "-x", "c++", str(text)]
    return subprocess.Popen([*command, "-o", str(folder / "kernels.so")], stderr=subprocess.PIPE, text=True), folder


def call(
    address: int, arrays: Sequence[np.ndarray], params: bytes, scalars: Sequence[np.generic] = (), seed: int = 1
) -> tuple[int, list[int]]:
    """Runs a CUDA kernel on NumPy arrays, as `codegen.harness.call` does a CPU one: its status code and details."""
    kernel = kernel_at(address)
    assert isinstance(kernel, CudaKernel)
    load([kernel])
    launch = kernel.launch(params)
    block = Call()
    for k, array in enumerate(arrays):
        block.data[k] = array.ctypes.data
    ctypes.memmove(block.params, params, len(params))
    for k, value in enumerate(scalars):
        raw = (value.astype(np.int64) if value.dtype.kind == "i" else value).tobytes()
        ctypes.memmove(ctypes.addressof(block.scalars) + 8 * k, raw, len(raw))
    error = (ctypes.c_int64 * 5)()
    block.error = ctypes.addressof(error)
    library = _libraries[kernel.name]
    ctypes.c_uint.in_dll(library, "dagrun_host_seed").value = seed
    getattr(library, kernel.name + "_host")(ctypes.byref(block), launch.blocks, launch.threads, launch.shared_bytes)
    return error[0], list(error[1:])


def bits(array: np.ndarray) -> np.ndarray:
    """The bits of an array, every NaN alike."""
    if array.dtype.kind != "f":
        return array.view(np.uint8) if array.dtype.kind == "b" else array
    plain = np.where(np.isnan(array), np.array(np.nan, array.dtype), array)
    return plain.view(f"u{array.dtype.itemsize}")


@dataclass
class Case:
    """One call of a kernel: `make()` gives its address for the target in force."""

    name: str
    make: Callable[[], int]
    arrays: Sequence[np.ndarray]  # views of memory that `fresh` copies
    params: bytes | Callable[[], bytes]
    scalars: Sequence[np.generic] = ()
    written: int = 1  # how many of the arrays, from the first, are compared; -1: all
    seed: int = 1


def check(cases: Sequence[Case]) -> None:
    """Every case on both targets: the same code and details, the same bits in all memory that was reached."""
    prepared = []
    for case in cases:
        with lowering_for("cuda"):
            address = case.make()
            params = case.params if isinstance(case.params, bytes) else case.params()
        prepared.append((case, address, params))
    load(kernel_at(address) for _, address, _ in prepared)
    for case, address, params in prepared:
        on_cpu, on_cuda = (copies(case.arrays) for _ in range(2))
        own = case.params if isinstance(case.params, bytes) else case.params()
        expected = call_cpu(case.make(), on_cpu, own, case.scalars)
        actual = call(address, on_cuda, params, case.scalars, case.seed)
        assert actual[0] == expected[0], case.name
        if expected[0]:  # of several bad positions any may be named
            assert actual[1][:2] == expected[1][:2], case.name
            continue
        for k, (one, other) in enumerate(zip(on_cuda, on_cpu)):
            np.testing.assert_array_equal(bits(one), bits(other), err_msg=f"{case.name}: operand {k}")


def copies(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The arrays with memory of their own; views of one base stay views of one base, with the same strides."""
    bases: dict[int, np.ndarray] = {}
    result = []
    for array in arrays:
        base = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        if id(base) not in bases:
            bases[id(base)] = base.copy(order="K") if base.flags.forc else np.array(base, copy=True)
        fresh = bases[id(base)]
        assert fresh.strides == base.strides
        offset = array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
        result.append(np.ndarray(array.shape, array.dtype, fresh.data if fresh.size else None, offset, array.strides)
                      if array.size else array.copy())  # fmt: skip
    return result


# ---- operators: what they lower to, for both targets


@dataclass
class Use:
    """One call of an operator on arrays."""

    name: str
    operator: Operator
    inputs: Sequence[np.ndarray]
    attributes: dict[str, object]
    tolerance: float | None = None  # None: the same bits


def check_operators(uses: Sequence[Use], seed: int = 1) -> None:
    """The results of every operator on both targets: the same failure, or the same bits."""
    lowered = []
    for use in uses:
        inputs = [layout(x.dtype, x.shape, x.strides) for x in use.inputs]
        bodies, specs = {}, {}
        for target in ("cpu", "cuda"):
            with lowering_for(target):
                specs[target] = use.operator.infer(inputs, (), **use.attributes)  # scratch memory is a device's own
                outputs = [layout(np.dtype(dtype), shape) for shape, dtype in specs[target]]
                bodies[target] = use.operator.lower(outputs, inputs, (), **use.attributes)
            assert bodies[target] is not None
        lowered.append((use, specs, bodies))
    kernels = [kernel_at(body.address) for _, _, bodies in lowered for body in bodies["cuda"]]
    load(kernel for kernel in kernels if isinstance(kernel, CudaKernel))
    for use, specs, bodies in lowered:
        results, failures = {}, {}
        for target in ("cpu", "cuda"):
            outputs = [np.full(shape, 77, dtype) for shape, dtype in specs[target]]
            failures[target] = run_bodies(bodies[target], [*outputs, *use.inputs], target, seed)
            results[target] = outputs
        assert failures["cuda"] == failures["cpu"], use.name
        if failures["cpu"] is None:
            for k, (one, other) in enumerate(zip(results["cuda"], results["cpu"], strict=True)):
                if use.tolerance is None:
                    np.testing.assert_array_equal(bits(one), bits(other), err_msg=f"{use.name}: result {k}")
                elif other.dtype != np.uint8:  # scratch memory
                    np.testing.assert_allclose(one, other, use.tolerance, use.tolerance, err_msg=use.name)


def run_bodies(bodies: Sequence[Body], operands: Sequence[np.ndarray], target: str, seed: int = 1) -> list[int] | None:
    """Runs the bodies in order; the first code that is not 0, with its details."""
    for body in bodies:
        places = [_Place(operands[use.index].ctypes.data + use.offset) for use in body.operands]
        if target == "cpu":
            code, details = call_cpu(body.address, places, body.params)
        elif isinstance(kernel_at(body.address), CublasGemm):
            code, details = 0, []
            multiply([place.ctypes.data for place in places], body.params, kernel_at(body.address).dtype)
        else:
            code, details = call(body.address, places, body.params, seed=seed)
        if code:
            return [code, *details]
    return None


def multiply(addresses: Sequence[int], params: bytes, dtype: str) -> None:
    """What cuBLAS does for a `CublasGemm`: C = A @ B for every position of the batch dimensions."""
    dims, m, n, k, *rest = struct.unpack(f"<{len(params) // 8}q", params)
    if m < 0:
        return
    (transpose_a, transpose_b, *leading), outer = rest[:5], rest[5:]
    item = np.dtype(dtype).itemsize

    def matrix(address: int, rows: int, columns: int, transposed: bool, step: int) -> np.ndarray:
        strides = (item, step * item) if transposed else (step * item, item)
        nbytes = sum((size - 1) * stride for size, stride in zip((rows, columns), strides, strict=True)) + item
        memory = (ctypes.c_char * nbytes).from_address(address)
        return np.ndarray((rows, columns), dtype, memory, 0, strides)

    for position in itertools.product(*(range(outer[4 * d]) for d in range(dims))):
        at = [a + sum(i * outer[4 * d + 1 + o] for d, i in enumerate(position)) for o, a in enumerate(addresses)]
        c = matrix(at[0], m, n, False, leading[2])
        if k == 0:
            c[...] = 0
            continue
        a = matrix(at[1], m, k, transpose_a == TRANSPOSED, leading[0])
        c[...] = a @ matrix(at[2], k, n, transpose_b == TRANSPOSED, leading[1])


class _Place:
    """An address in the place of an array."""

    def __init__(self, address: int) -> None:
        self.ctypes = SimpleNamespace(data=address)
