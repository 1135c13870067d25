"""Every CUDA source is taken by NVIDIA's compiler, without a warning. (No GPU is needed for that.)"""

from __future__ import annotations

import pytest

from dagrun.codegen.values import DTYPES
from tests.cuda.nvrtc import compiled, library
from tests.cuda.sources import every_kernel

pytestmark = pytest.mark.skipif(library() is None, reason="no NVRTC (pip install nvidia-cuda-nvrtc-cu12)")


def test_a_warning_is_seen() -> None:
    source = '#include "dagrun.cuh"\nDAGRUN_KERNEL(wrong, 32) { int nobody_needs_it = 1; }\n'
    assert "never referenced" in compiled(source, "sm_90")[1]
    assert compiled(source + "}", "sm_90")[0] != 0


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_kernels_of_each_family(architecture: str) -> None:
    """One of each, to machine code."""
    chosen = {kernel.name.rsplit("_", 1)[0]: kernel.source for kernel in every_kernel(("float32",))}
    assert len(chosen) > 25
    assert compiled("\n".join(chosen.values()), architecture) == (0, "")


@pytest.mark.long
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kernel(dtype: str) -> None:
    """To the code for any device of a generation, which takes a third of the time."""
    sources = [kernel.source for kernel in every_kernel((dtype,))]
    assert len(sources) > 60
    assert compiled("\n".join(sources), "compute_80") == (0, "")
