"""Cross-entropy and negative log-likelihood with classes; see kernels/cuda/lines.cuh."""

from __future__ import annotations

from dagrun.codegen.cuda.emitter import entry_name
from dagrun.codegen.cuda.registry import known, register
from dagrun.codegen.cuda.softmax import lines_kernel
from dagrun.codegen.lines import vector_lanes
from dagrun.codegen.softmax import operands_of


def kernel(kind: str, dtype: str, class_dtype: str, weighted: bool) -> int:
    """Address of the kernel `kind` of CLASSES; see codegen/softmax.py."""
    name = entry_name(kind, f"{dtype} {class_dtype} {weighted}")
    operands = len(operands_of(kind, dtype, class_dtype))
    flag = f"  static constexpr DAGRUN_METHOD bool weighted() {{ return {str(weighted).lower()}; }}"
    types = {"Dtype": dtype, "Class": class_dtype}
    return known(name) or register(
        lines_kernel(name, kind, types, operands, 2, vector_lanes([dtype]), [flag])
    )  # fmt: skip
