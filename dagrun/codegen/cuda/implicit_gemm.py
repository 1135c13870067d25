"""Convolutions as products without columns; see kernels/cuda/implicit_gemm.cuh.

    kernel              data                            does, for each group
    pack_weights        packed, w                       lays a weight with its channels innermost, filled up with zeros
    convolve_images     y, packed, x [, bias]           y = convolution of x; or of y, the adjoint in the image
    convolve_weights    partial weights, y, x           for each part of the images' places a weight, in float32

Params of the last two, int64 words: see `PRODUCT_WORDS`. "Source" is what windows are read from, x; "result" is y. All
strides are in bytes. `channels` are summed over by convolve_images, `padded` is their number filled up to whole runs;
for convolve_weights `padded` is the number of runs of an image. `tiles`: how far the sum goes, or the number of parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from dagrun.codegen.compiler import Unsupported
from dagrun.codegen.cuda.emitter import CUDA_TYPE, entry_name, template_kernel
from dagrun.codegen.cuda.registry import CudaKernel, Launch, grid, known, register, words_of
from dagrun.codegen.layout import pack
from dagrun.codegen.values import ITEMSIZE

PRODUCT_WORDS = (
    "images", "groups", "outputs", "channels", "padded", "tiles", "rows", "columns", "kernel_rows", "kernel_columns",
    "out_rows", "out_columns", "row_step", "column_step", "row_shift", "column_shift", "top", "left",
    "source_image", "source_group", "source_channel", "source_row", "source_column",
    "result_image", "result_group", "result_channel", "result_row", "result_column", "bias",
)  # fmt: skip
PACK_WORDS = (
    "groups", "outputs", "padded_outputs", "channels", "padded", "depth", "kernel_rows", "kernel_columns",
    "w_group", "w_output", "w_channel", "w_row", "w_column", "w_start",
)  # fmt: skip
RUN_BYTES = 16
FULL = 264  # blocks that fill a large GPU: two for each of the 132 multiprocessors of an H100 or H200
_WORD_LIMIT = 1 << 30  # of what the kernels keep in 32 bits
_WIDE = ("images", "groups", "source_image", "source_group", "result_image", "result_group", "result_channel",
         "result_row", "result_column", "bias")  # fmt: skip

Kind = Literal["convolve_images", "convolve_weights"]


@dataclass(frozen=True, slots=True)
class Tile:
    """What a block of threads makes: rows and columns of the result; `tensor`: on tensor cores."""

    dtype: str
    tensor: bool
    rows: int
    columns: int

    @property
    def run(self) -> int:
        """Neighbours along the sum that a thread fetches at a time."""
        return RUN_BYTES // ITEMSIZE[self.dtype]

    @property
    def depth(self) -> int:
        """How far along the sum a tile reaches: `RUNS` runs of the header."""
        return self.run * (4 if self.tensor else 2)

    @property
    def threads(self) -> int:
        return self.rows * self.columns // 64

    @property
    def shared_bytes(self) -> int:
        """Two tiles of both sides, with the header's padding."""
        each = 80 * (self.rows + self.columns) if self.tensor else 32 * (self.rows + self.columns + 8)
        return 2 * each

    def blocks(self, rows: int, columns: int) -> int:
        """How many tiles a result takes."""
        return -(-rows // self.rows) * -(-columns // self.columns)


def tile_for(dtype: str, tf32: bool, rows: int, columns: int, groups: int) -> Tile:
    """The tile for results of a size: the largest one that fills a GPU, else the smallest.

    float32 is summed in the same order by all tiles, so the choice does not change a bit.
    """
    if dtype not in ("float16", "float32"):
        raise Unsupported(f"implicit products are for float16 and float32, not {dtype}")
    tensor = dtype == "float16" or tf32
    for size in ((128, 128), (64, 128)):
        tile = Tile(dtype, tensor, *size)
        if rows > size[0] // 2 and columns > size[1] // 2 and tile.blocks(rows, columns) * groups >= FULL:
            return tile
    return Tile(dtype, tensor, 64, 64)


def product_params(**words: int) -> bytes:
    """The params of a product; Unsupported where sizes or strides are too large for the kernel."""
    count = words["images"] * words["out_rows"] * words["out_columns"]
    large = [name for name, word in words.items() if name not in _WIDE and abs(word) >= _WORD_LIMIT]
    if large or count >= _WORD_LIMIT:
        raise Unsupported(f"an implicit product of this size: {large or count}")
    return pack([words.get(name, 0) for name in PRODUCT_WORDS])


def pack_params(**words: int) -> bytes:
    return pack([words[name] for name in PACK_WORDS])


def pack_kernel(dtype: str) -> int:
    name = entry_name("pack_weights", dtype)

    def launch(params: bytes) -> Launch:
        groups, _, padded_outputs, _, _, depth, *_ = words_of(params)
        return grid(groups * padded_outputs * depth)

    source = template_kernel(name, "implicit_gemm.cuh", "pack_weights", {"Dtype": dtype})
    return known(name) or register(CudaKernel(name, source, launch))


def product_kernel(kind: Kind, tile: Tile) -> int:
    """Address of the kernel that makes such tiles."""
    name = entry_name(kind, f"{tile}")
    if address := known(name):
        return address
    return register(CudaKernel(name, _source(name, kind, tile), partial(_launch, kind, tile)))


def _launch(kind: Kind, tile: Tile, params: bytes) -> Launch:
    w = dict(zip(PRODUCT_WORDS, words_of(params), strict=True))
    if kind == "convolve_images":
        blocks = tile.blocks(w["outputs"], w["images"] * w["out_rows"] * w["out_columns"])
    else:
        blocks = tile.blocks(w["outputs"], w["channels"] * w["kernel_rows"] * w["kernel_columns"]) * w["tiles"]
    return Launch(max(1, blocks * w["groups"]), tile.threads, tile.shared_bytes)


def _source(name: str, kind: Kind, tile: Tile) -> str:
    size = f"{tile.rows}, {tile.columns}"
    multiply = f"Tensor<{CUDA_TYPE[tile.dtype]}, {size}>" if tile.tensor else f"Plain<{size}>"
    blocks = max(2, 384 // tile.threads)  # at a time on a multiprocessor: 12 to 16 warps, and registers for few spills
    return "\n".join(
        [
            '#include "implicit_gemm.cuh"',
            "namespace dagrun {",
            f"struct {name}_of {{",
            f"  using Multiply = {multiply};",
            f'  static_assert(Multiply::THREADS == {tile.threads}, "the host has another number");',
            f'  static_assert(Multiply::DEPTH == {tile.depth}, "the host has another number");',
            f'  static_assert(2 * Multiply::TILE == {tile.shared_bytes}, "the host has another size");',
            "};",
            "}  // namespace dagrun",
            f"DAGRUN_KERNEL({name}, {tile.threads}, {blocks}) {{ dagrun::{kind}<dagrun::{name}_of>(call); }}",
            "",
        ]
    )
