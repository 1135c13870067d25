"""CUDA kernels broken on purpose are noticed: each mutant of the headers must fail a test of its family."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dagrun.codegen.cuda.registry import include_directory
from tests.cuda.harness import needs_compiler

ROOT = Path(__file__).parent.parent.parent
BARRIER = "__syncthreads();"

# header, what is replaced (the occurrence of that number), by what, the tests that must fail
MUTANTS = [
    ("dagrun.cuh", "number, at);", 0, "number, at); at ^= at > 3;", "test_elementwise.py::test_layouts"),
    ("dagrun.cuh", "% (V * Op::size(k)) == 0", 0, ">= 0", "test_elementwise.py::test_elements_side_by_side"),
    ("dagrun.cuh", "call.params[0] % V == 0", 0, "true", "test_elementwise.py::test_elements_side_by_side"),
    ("dagrun.cuh", "step(k) == Op::size(k) &&", 0, "", "test_elementwise.py::test_elements_side_by_side"),
    ("dagrun.cuh", "places |= u64(", 0, "places |= 0 * u64(", "test_elementwise.py::test_elements_side_by_side"),
    ("dagrun.cuh", "+ 0.5f) - 0x3f000000", 0, "+ 0.5f) - 0x3f000001", "test_elementwise.py::test_every_half"),
    ("reduction.cuh", BARRIER, 0, "", "test_reduction.py::test_trees_of_many_blocks"),
    ("reduction.cuh", BARRIER, 1, "", "test_reduction.py::test_trees_of_many_blocks"),
    ("reduction.cuh", BARRIER, 2, "", "test_reduction.py::test_more_results"),
    ("reduction.cuh", BARRIER, 3, "", "test_reduction.py::test_trees_of_many_blocks"),
    ("reduction.cuh", BARRIER, 5, "", "test_reduction.py::test_more_results"),
    ("reduction.cuh", BARRIER, 9, "", "test_reduction.py::test_zeros"),
    ("reduction.cuh", BARRIER, 10, "", "test_reduction.py::test_more_results"),
    ("reduction.cuh", "Op::combine(total, left)", 0, "Op::combine(left, total)", "test_reduction.py::test_zeros"),
    ("reduction.cuh", "&& there < place", 0, "", "test_reduction.py::test_zeros"),
    ("reduction.cuh", "totals[width * i + lane]", 0, "totals[32 * i + lane]", "test_reduction.py::test_trees_of_many"),
    (
        "reduction.cuh",
        "Op::combine(Op::identity(), total)",
        0,
        "Op::identity()",
        "test_reduction.py::test_more_results",
    ),
    (
        "reduction.cuh",
        "const i64 first = part * segment",
        0,
        "const i64 first = part",
        "test_reduction.py::test_results_in",
    ),
    ("reduction.cuh", "whole < parts ?", 0, "false ?", "test_reduction.py::test_results_in_parts"),
    ("reduction.cuh", "first = part * r.segment()", 0, "first = part", "test_reduction.py::test_results_in_parts"),
    *(("reduction.cuh", BARRIER, k, "", "test_reduction.py::test_results_in_parts") for k in (6, 7, 8)),
    ("movement.cuh", BARRIER, 0, "", "test_movement.py::test_more_positions_than_threads"),
    ("movement.cuh", BARRIER, 1, "", "test_movement.py::test_more_positions_than_threads"),
    ("movement.cuh", "index >= bound", 0, "index > bound", "test_movement.py::test_movement_that_the_cpu"),
    ("movement.cuh", "each * slice", 0, "each * slice - 1", "test_movement.py::test_indices_along"),
    ("movement.cuh", "step == 0 ||", 0, "", "test_movement.py::test_more_positions_than_threads"),
    ("movement.cuh", "steps[K] != 0 ? column : 0", 0, "0", "test_movement.py::test_sorted_positions_along"),
    ("movement.cuh", "count / WIDE * WIDE", 0, "(count + 3) / WIDE * WIDE", "test_movement.py::test_more_positions"),
    ("movement.cuh", "rank - 1 : rank + 1", 0, "rank + 1 : rank - 1", "test_movement.py::test_sorted_positions"),
    ("movement.cuh", "if (k <= length) total", 0, "if (k < length) total", "test_movement.py::test_sorted_positions"),
    ("movement.cuh", "more = found == 32", 0, "more = false", "test_movement.py::test_sorted_positions"),
    ("movement.cuh", "start += AHEAD", 0, "start += AHEAD - 1", "test_movement.py::test_sorted_positions"),
    *(("ordering.cuh", BARRIER, k, "", "test_movement.py::test_sorted_positions") for k in range(4)),
    ("ordering.cuh", "__syncwarp();", 1, "", "test_movement.py::test_sorted_positions"),
    ("ordering.cuh", "start + __popc(peers & lower)", 0, "start", "test_movement.py::test_sorted_positions"),
    ("ordering.cuh", "threadIdx.x / 32 * each", 0, "0", "test_movement.py::test_sorted_positions"),
    ("transposition.cuh", BARRIER, 0, "", "test_transposition.py::test_transposed"),
    ("transposition.cuh", BARRIER, 1, "", "test_transposition.py::test_transposed"),
    ("transposition.cuh", "left + x < across", 0, "true", "test_transposition.py::test_transposed"),
    ("cumulative.cuh", "begin == 0", 0, "true", "test_movement.py::test_running_sums_of_long_lines"),
    *(("cumulative.cuh", BARRIER, k, "", "test_movement.py::test_running_sums_of_long_lines") for k in (0, 1)),
    ("lines.cuh", BARRIER, 0, "", "test_layers.py::test_softmax"),
    ("lines.cuh", "if (begin > 0) " + BARRIER, 0, "", "test_layers.py::test_softmax"),
    ("lines.cuh", "& -32) + LANES", 0, "& -32) - 40", "test_layers.py::test_softmax"),
    ("lines.cuh", "lane() < rest", 0, "lane() < rest - 1", "test_layers.py::test_softmax"),
    ("lines.cuh", BARRIER, 2, "", "test_layers.py::test_softmax"),
    ("lines.cuh", BARRIER, 3, "", "test_layers.py::test_softmax"),
    ("lines.cuh", "own != this->ignored", 0, "true", "test_layers.py::test_losses_of_classes"),
    ("normalization.cuh", BARRIER, 0, "", "test_layers.py::test_normalization"),
    ("normalization.cuh", BARRIER, 1, "", "test_layers.py::test_normalization"),
    ("normalization.cuh", BARRIER, 2, "", "test_layers.py::test_normalization"),
    ("normalization.cuh", "number * groups + ", 0, "", "test_layers.py::test_normalization"),
    (
        "normalization.cuh",
        "this->lane == 0, results",
        0,
        "false, results",
        "test_layers.py::test_normalization_of_rows",
    ),
    (
        "normalization.cuh",
        "threadIdx.x == 0, results",
        0,
        "false, results",
        "test_layers.py::test_normalization_of_rows",
    ),
    ("normalization.cuh", "begin = row * block", 0, "begin = row", "test_layers.py::test_normalization_of_rows"),
    ("normalization.cuh", "slopes, lane + j", 0, "slopes, j", "test_layers.py::test_normalization_of_rows"),
    ("pooling.cuh", BARRIER, 0, "", "test_layers.py::test_pooling"),
    ("pooling.cuh", "turn = waits && *slot == threadIdx.x", 0, "turn = waits", "test_layers.py::test_pooling"),
    ("pooling.cuh", "own % dilation == 0", 0, "true", "test_layers.py::test_pooling"),
    ("convolution.cuh", "< u32(w.rows)", 0, "<= u32(w.rows)", "test_layers.py::test_columns_of_images"),
    ("convolution.cuh", "place < count", 0, "place <= count", "test_layers.py::test_columns_of_images"),
    ("convolution.cuh", "place + k < places", 0, "true", "test_layers.py::test_columns_of_images"),
    *(
        ("implicit_gemm.cuh", BARRIER, k, "", "test_convolutions.py::test_each_size_of_tile and float32")
        for k in (0, 1)
    ),
    ("implicit_gemm.cuh", "tile + 1) % 2", 0, "tile) % 2", "test_convolutions.py::test_each_size_of_tile and float32"),
    ("implicit_gemm.cuh", "n < count ?", 0, "true ?", "test_convolutions.py::test_each_size_of_tile and float32"),
    ("implicit_gemm.cuh", "n < taps ?", 0, "true ?", "test_convolutions.py::test_each_size_of_tile and float32"),
    (
        "implicit_gemm.cuh",
        "if (m >= w.outputs) return;",
        0,
        "",
        "test_convolutions.py::test_each_size_of_tile and float32",
    ),
    (
        "implicit_gemm.cuh",
        "u32(r) < u32(w.rows)",
        0,
        "u32(r) <= u32(w.rows)",
        "test_convolutions.py::test_products_without_columns and small and float32",
    ),
    (
        "implicit_gemm.cuh",
        "u32(r) < u32(w.rows)",
        1,
        "u32(r) <= u32(w.rows)",
        "test_convolutions.py::test_products_without_columns and small and float32",
    ),
    (
        "implicit_gemm.cuh",
        "q < count ?",
        0,
        "true ?",
        "test_convolutions.py::test_products_without_columns and small and float32",
    ),
    (
        "implicit_gemm.cuh",
        "q < own ?",
        0,
        "true ?",
        "test_convolutions.py::test_infinities and float32",
    ),
    (
        "implicit_gemm.cuh",
        "runs_left <= 0",
        0,
        "false",
        "test_convolutions.py::test_products_without_columns and small and float32",
    ),
    ("implicit_gemm.cuh", "to_tf32(x.value[q])", 0, "x.value[q] * 1.001f", "test_convolutions.py::test_tf32"),
    ("direct_convolution.cuh", BARRIER, 0, "", "test_convolutions.py::test_groups_of_few_channels and float32"),
    ("direct_convolution.cuh", BARRIER, 1, "", "test_convolutions.py::test_groups_of_few_channels and float32"),
    (
        "direct_convolution.cuh",
        "own.place + k < size",
        0,
        "true",
        "test_convolutions.py::test_groups_of_few_channels and float32",
    ),
    (
        "direct_convolution.cuh",
        "u32(c) < u32(w.columns)",
        1,
        "true",
        "test_convolutions.py::test_groups_of_few_channels and float32",
    ),
    ("sorting.cuh", BARRIER, 0, "", "test_sorting.py::test_lines_of_one_tile"),
    ("sorting.cuh", BARRIER, 1, "", "test_sorting.py::test_lines_of_one_tile"),
    ("sorting.cuh", "&& places[a] > places[b]", 0, "", "test_sorting.py::test_lines_of_one_tile"),
    ("sorting.cuh", "!older && other == key", 0, "other == key", "test_sorting.py::test_longer_lines"),
    ("sorting.cuh", "after && other == key", 0, "false", "test_sorting.py::test_searches"),
    ("plain_gemm.cuh", "k < depth", 0, "k < depth - 1", "test_layers.py::test_plain_products"),
]

pytestmark = [pytest.mark.long, needs_compiler]


@pytest.mark.parametrize(("header", "old", "number", "new", "tests"), MUTANTS)
def test_a_broken_kernel_fails(header: str, old: str, number: int, new: str, tests: str, tmp_path: Path) -> None:
    shutil.copytree(include_directory(), tmp_path / "cuda")
    parts = (tmp_path / "cuda" / header).read_text().split(old)
    assert len(parts) > number + 1, f"{header} has no such place: {old}"
    text = old.join(parts[: number + 1]) + new + old.join(parts[number + 1 :])
    (tmp_path / "cuda" / header).write_text(text)
    environment = os.environ | {"DAGRUN_TEST_KERNELS": str(tmp_path / "cuda"), "DAGRUN_TEST_LIBRARIES": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-o", "timeout=60"]
    file, name = tests.split("::")
    run = subprocess.run(
        [*command, str(ROOT / "tests" / "cuda" / file), "-k", name], env=environment, cwd=ROOT, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert "does not take" not in run.stdout and "no tests ran" not in run.stdout, run.stdout[:2000]
    assert run.returncode != 0, run.stdout[-2000:]  # wrong values, or a crash, or a loop that the time limit ends
