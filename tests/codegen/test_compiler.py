"""The object cache: damaged files, several threads, several processes."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading

import pytest

from dagrun.codegen import compiler
from dagrun.codegen.compiler import Unsupported, compile_kernel, entry_name
from dagrun.codegen.elementwise import elementwise_ir
from dagrun.codegen.emitter import Emitter
from dagrun.codegen.expression import Call, Cast, Constant, Input, Scalar, call, linear_form

_BODY = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 4)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGRUN_CACHE_DIR", str(tmp_path))
    return tmp_path / "kernels"


def returning(code: int, name: str) -> str:
    e = Emitter()
    e.finish(code)
    return e.module(name)


class Builder:
    """Makes the kernel that returns `code`, and counts how often it was asked to."""

    def __init__(self, key: str, code: int) -> None:
        self.key, self.code, self.calls = key, code, 0

    def __call__(self) -> str:
        self.calls += 1
        return returning(self.code, entry_name(self.key))

    def run(self) -> int:
        return _BODY(compile_kernel(self.key, self))(None, None, None, None)

    def forget(self) -> None:
        """As in a new process: only the disk remembers."""
        compiler._addresses.pop(self.key)


def test_a_kernel_is_built_once(cache) -> None:
    kernel = Builder("test; once", 3)
    assert [kernel.run(), kernel.run()] == [3, 3]
    assert kernel.calls == 1
    kernel.forget()
    assert kernel.run() == 3 and kernel.calls == 1
    assert len(list(cache.glob("*.o"))) == 1 and not list(cache.glob("*.tmp"))


@pytest.mark.parametrize("damage", [b"", b"junk", "truncated", "flipped"])
def test_a_damaged_file_is_made_again(cache, damage) -> None:
    kernel = Builder(f"test; damage {damage!r}", 4)
    kernel.run()
    kernel.forget()
    (file,) = cache.glob("*.o")
    content = file.read_bytes()
    flipped = content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]
    file.write_bytes({"truncated": content[: len(content) // 2], "flipped": flipped}.get(damage, damage))
    assert kernel.run() == 4 and kernel.calls == 2
    assert file.read_bytes() == content


def test_a_directory_that_cannot_be_written_does_not_matter(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DAGRUN_CACHE_DIR", str(tmp_path / "file"))
    assert Builder("test; no directory", 5).run() == 5


def test_other_sources_make_other_files(cache, monkeypatch) -> None:
    kernel = Builder("test; sources", 6)
    kernel.run()
    kernel.forget()
    monkeypatch.setattr(compiler.host(), "fingerprint", "another host or another source")
    assert kernel.run() == 6 and kernel.calls == 2


def test_threads(cache) -> None:
    kernels = [Builder(f"test; thread {k}", k) for k in range(6)]
    results: list[list[int]] = []
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        results.append([kernel.run() for kernel in kernels])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [list(range(6))] * 8
    assert [kernel.calls for kernel in kernels] == [1] * 6


def test_processes_share_the_cache(cache) -> None:
    program = (
        "import ctypes, sys; from dagrun.codegen.compiler import compile_kernel, entry_name;"
        "from dagrun.codegen.emitter import Emitter;\n"
        "def build(key, code):\n    e = Emitter(); e.finish(code); return e.module(entry_name(key))\n"
        "body = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 4)\n"
        "run = lambda key, k: body(compile_kernel(key, lambda: build(key, k)))(None, None, None, None)\n"
        "print([run(f'test; process {k}', k) for k in range(8)])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-c", program]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(3)]
    for process in running:
        assert process.communicate(timeout=60)[0].decode().strip() == str(list(range(8)))
    assert len(list(cache.glob("*.o"))) == 8 and not list(cache.glob("*.tmp"))


def test_a_runtime_function_that_is_missing_is_refused(cache) -> None:
    text = (
        f"define i32 @{entry_name('test; runtime')}(ptr %data, ptr %params, ptr %scalars, ptr %error) {{\n"
        "  %x = load fp128, ptr %data\n  %y = fptrunc fp128 %x to float\n  store float %y, ptr %params\n  ret i32 0\n}"
    )
    with pytest.raises(Unsupported, match="__trunctfsf2"):
        compile_kernel("test; runtime", lambda: text)


def test_no_operation_is_contracted_to_a_fused_one() -> None:
    x, y, z = (Input(k, "float32") for k in range(3))
    text = compiler.assembly(elementwise_ir(call("add", call("multiply", x, y), z), "kernel"))
    assert "fmadd" not in text and "fma2" not in text


def test_expressions_are_values() -> None:
    x = Input(0, "float32")
    assert call("add", x, Scalar(0, "float32")) == Call("add", (x, Scalar(0, "float32")), "float32")
    assert hash(Cast("int8", x)) == hash(Cast("int8", Input(0, "float32")))
    assert call("less", x, x).dtype == "bool"
    with pytest.raises(TypeError, match="float32, float64"):
        call("add", x, Constant(1.0, "float64"))
    forms = {linear_form(call("add", x, Constant(zero, "float32"))) for zero in (0.0, -0.0)}
    assert len(forms) == 2
