"""Every CUDA source is taken by NVIDIA's compiler, without a warning. (No GPU is needed for that.)"""

from __future__ import annotations

import re

import pytest

from dagrun.codegen.cuda.implicit_gemm import Tile, product_kernel
from dagrun.codegen.cuda.registry import kernel_at
from dagrun.codegen.values import DTYPES
from tests.cuda.nvrtc import compiled, library, registers
from tests.cuda.sources import every_kernel

pytestmark = pytest.mark.skipif(library() is None, reason="no NVRTC (pip install nvidia-cuda-nvrtc-cu12)")


def test_a_warning_is_seen() -> None:
    source = '#include "dagrun.cuh"\nDAGRUN_KERNEL(wrong, 32) { int nobody_needs_it = 1; }\n'
    assert "never referenced" in compiled(source, "sm_90")[1]
    assert compiled(source + "}", "sm_90")[0] != 0


@pytest.mark.parametrize(("architecture", "dtype"), [("sm_80", "float64"), ("sm_90", "float32")])
def test_kernels_of_each_family(architecture: str, dtype: str) -> None:
    """One of each, to machine code; a block of threads asks for no more registers than a multiprocessor has."""
    chosen = {}
    for kernel in every_kernel((dtype,)):
        template = re.search(rf"dagrun::(\w+)<dagrun::{kernel.name}_of>", kernel.source)
        chosen[template[1] if template else kernel.name.rsplit("_", 1)[0]] = kernel.source
    assert len(chosen) > 35
    source = "\n".join(chosen.values())
    status, log, code = compiled(source, architecture)
    assert (status, log) == (0, "")
    if architecture == "sm_80":
        taken = registers(code)
        threads = {name: int(most) for name, most in re.findall(r"DAGRUN_KERNEL\((\w+), (\d+)", source)}
        assert taken.keys() == threads.keys() and min(taken.values()) > 0 and max(threads.values()) >= 512
        assert not [name for name in taken if taken[name] * threads[name] > 65536]


@pytest.mark.long
@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_90"])
def test_tensor_cores_of_each_generation(architecture: str) -> None:
    """The assembler, which machine code needs, takes the instructions that stand in the source."""
    tiles = [Tile(dtype, True, *size) for dtype in ("float16", "float32") for size in ((128, 128), (64, 64))]
    kernels = [
        kernel_at(product_kernel(kind, tile)) for tile in tiles for kind in ("convolve_images", "convolve_weights")
    ]
    assert compiled("\n".join(kernel.source for kernel in kernels), architecture)[:2] == (0, "")


@pytest.mark.long
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kernel(dtype: str) -> None:
    """To the code for any device of a generation, which takes a third of the time."""
    sources = [kernel.source for kernel in every_kernel((dtype,))]
    assert len(sources) > 60
    assert compiled("\n".join(sources), "compute_80")[:2] == (0, "")
