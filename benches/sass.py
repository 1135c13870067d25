"""What the machine code of CUDA kernels says, without a GPU: registers, and what a trip around each loop takes.

A line for each loop that accesses memory, in their order in the code: its instructions on the shortest way around
(divisions for strided layouts and other rare ways are jumped over), and the accesses on that way, `count x bytes`.
One under a condition has a `?`: of the pair `1x16? 1x4?` one happens. A loop may stand there several times, made for
many elements, then for the rest of them, and for each way in which a kernel can go over its operands.

Compare the instructions for an element with what memory allows: 132 processors of an H200 start 128 instructions of
threads at 1.7 GHz, and its memory moves 4.8 TB/s: 6 instructions for each byte that a kernel must read or write.

    pip install nvidia-cuda-nvrtc-cu12 nvidia-cuda-nvdisasm
    python benches/sass.py add softmax pool_put
    python benches/sass.py add --dtype float16 --architecture sm_80
    python benches/sass.py add --listing  # the machine code itself
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dagrun.codegen.cuda.registry import AnyKernel, CudaKernel, kernel_at
from dagrun.codegen.elementwise import elementwise
from dagrun.codegen.scalars import SCALAR_OPS
from dagrun.codegen.target import lowering_for
from tests.cuda import nvrtc
from tests.cuda.sources import every_kernel

_INSTRUCTION = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;")
_LABEL = re.compile(r"(\.L_\w+):")
_ACCESS = re.compile(r"(@!?U?P\d )?(LDG|STG|LDS|STS|LDL|STL)((?:\.\w+)*)")
_KINDS = {
    "LDG": "loads",
    "STG": "stores",
    "LDS": "shared loads",
    "STS": "shared stores",
    "LDL": "LOCAL",
    "STL": "LOCAL",
}


def _disassembler() -> str | None:
    """nvdisasm: on the path, or as the package nvidia-cuda-nvdisasm brings it."""
    of_packages = (file for folder in sys.path for file in Path(folder, "nvidia").glob("*/bin/nvdisasm"))
    return shutil.which("nvdisasm") or next(map(str, of_packages), None)


def _family(kernel: AnyKernel) -> str:
    return kernel.name.removeprefix("dagrun_").rsplit("_", 1)[0]


def _kernels(name: str, dtype: str) -> list[CudaKernel]:
    """An elementwise operation, or all kernels of a template of kernels/cuda, or of a family of codegen/cuda."""
    if name in SCALAR_OPS:
        with lowering_for("cuda"):
            kernel = kernel_at(elementwise(name, [dtype] * SCALAR_OPS[name].arity, dtype, dtype))
        assert isinstance(kernel, CudaKernel)
        return [kernel]
    return [k for k in every_kernel((dtype,)) if name == _family(k) or f"dagrun::{name}<" in k.source]


def _listing(kernel: CudaKernel, architecture: str, disassembler: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(nvrtc.compiled(kernel.source, architecture)[2])
        file.flush()
        return subprocess.run(
            [disassembler, "-c", "-hex", file.name], capture_output=True, text=True, check=True
        ).stdout


def _parsed(listing: str) -> tuple[list[str], dict[str, int]]:
    """The instructions, and the number of the one at each label."""
    instructions, labels = [], {}
    for line in listing.splitlines():
        if match := _INSTRUCTION.match(line):
            instructions.append(match[2])
        elif match := _LABEL.match(line):
            labels[match[1]] = len(instructions)
    return instructions, labels


def _trips(instructions: Sequence[str], labels: dict[str, int]) -> list[list[int]]:
    """Of each loop the instructions on the shortest way from its head back to it."""
    ways: list[list[int]] = []
    follow = [[i + 1] for i in range(len(instructions))]
    for i, text in enumerate(instructions):
        target = re.search(r"\bBRA\b.*`\((\.L_\w+)\)", text)
        if target:
            follow[i] = [labels[target[1]]] if text.startswith("BRA `") else [i + 1, labels[target[1]]]
        elif re.match(r"EXIT|RET", text):
            follow[i] = []
    for head in sorted({to for i, after in enumerate(follow) for to in after if to <= i}):
        before: dict[int, int] = {head: -1}
        waiting = deque([head])
        while waiting:
            i = waiting.popleft()
            if head in follow[i]:
                way = []
                while i >= 0:
                    way.append(i)
                    i = before[i]
                ways.append(way[::-1])
                break
            for to in follow[i]:
                if head < to < len(instructions) and to not in before:
                    before[to] = i
                    waiting.append(to)
    return ways


def _accesses(instructions: Sequence[str]) -> str:
    found: dict[str, Counter[str]] = {}
    for text in instructions:
        if match := _ACCESS.match(text):
            width = next((bits for bits in ("128", "64", "U16", "S16", "U8", "S8") if "." + bits in match[3]), "32")
            size = int(width.strip("US")) // 8
            found.setdefault(_KINDS[match[2]], Counter())[f"{size}{'?' if match[1] else ''}"] += 1
    return ", ".join(f"{kind} {' '.join(f'{n}x{size}' for size, n in sizes.items())}" for kind, sizes in found.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="an elementwise operation, or a template of kernels/cuda")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--architecture", default="sm_90")
    parser.add_argument("--listing", action="store_true", help="print the machine code")
    arguments = parser.parse_args()
    disassembler = _disassembler()
    if nvrtc.library() is None or disassembler is None:
        parser.error("needs NVRTC and nvdisasm: pip install nvidia-cuda-nvrtc-cu12 nvidia-cuda-nvdisasm")
    for name in arguments.names:
        kernels = _kernels(name, arguments.dtype)
        if not kernels:
            families = ", ".join(sorted({_family(kernel) for kernel in every_kernel((arguments.dtype,))}))
            parser.error(f"no operation or kernel {name!r} of {arguments.dtype}; families: {families}")
        for kernel in kernels:
            listing = _listing(kernel, arguments.architecture, disassembler)
            if arguments.listing:
                print(listing)
            instructions, labels = _parsed(listing)
            registers = max((int(r) for text in instructions for r in re.findall(r"\bR(\d+)", text)), default=0) + 1
            print(f"{name} ({kernel.name}): {len(instructions)} instructions, {registers} registers")
            for way in _trips(instructions, labels):
                accesses = _accesses([instructions[i] for i in way])
                if accesses:
                    print(f"  {len(way):5} instructions  {accesses}")


if __name__ == "__main__":
    main()
