"""From LLVM IR text to the address of a native function, through an object cache in memory and on disk.

A kernel is named by a *key*: a cheap string that says everything its IR depends on (family, expression, dtypes). When
the key is known, in memory or on disk, no IR is built and LLVM only loads the finished object.

    address = compile_kernel(key, build)        # build() -> IR text defining `entry_name(key)`

Rules every kernel is compiled under: the host's CPU and features, code generation at level 3, no fast-math, no
contraction of a*b+c to a fused multiply-add. Kernels write their vectors themselves: no pass decides the bits.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

from dagrun.config import cache_directory

BODY_PARAMETERS = "ptr %data, ptr %params, ptr %scalars, ptr %error"
# Soft conversions LLVM calls where the CPU has no instruction; a call of a missing one would jump to address 0.
_RUNTIME_FUNCTION = re.compile(rb"__(?:trunc|extend|fix|float|gnu_)[a-z0-9_]+")
_MAGIC = b"dagrun object 1\n"


class Unsupported(Exception):
    """The generator has no kernel for this combination of operation, dtypes or host; the caller falls back."""


class _Host:
    """The process-wide LLVM state: made on first use, guarded by `_lock`."""

    def __init__(self) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self.triple = llvm.get_process_triple()
        self.cpu = llvm.get_host_cpu_name()
        features = llvm.get_host_cpu_features()
        self.features = features.flatten()
        self.has_f16c = bool(features.get("f16c", False)) or self.triple.startswith(("aarch64", "arm64"))
        target = llvm.Target.from_triple(self.triple)
        self.machine = target.create_target_machine(cpu=self.cpu, features=self.features, opt=3, jit=True)
        self.data_layout = str(self.machine.target_data)
        self.fingerprint = "\n".join(
            (llvmlite.__version__, str(llvm.llvm_version_info), self.triple, self.cpu, self.features, _source_version())
        )
        self.engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), self.machine)
        self.loaded: list[llvm.ObjectFileRef] = []


_lock = threading.RLock()
_host: _Host | None = None
_addresses: dict[str, int] = {}


def host() -> _Host:
    """The LLVM state of this process."""
    global _host
    if _host is None:
        with _lock:
            if _host is None:
                _host = _Host()
    return _host


def _source_version() -> str:
    """A digest of the generator's own sources: kernels made by other sources are never reused."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def entry_name(key: str) -> str:
    """The symbol a kernel with this key must define."""
    return "dagrun_" + hashlib.sha256(key.encode()).hexdigest()[:32]


def compile_kernel(key: str, build: Callable[[], str]) -> int:
    """Return the address of the kernel named `key`, compiling the IR text that `build()` gives if it is new.

    `build` is called only when neither this process nor the disk cache knows the key. The address stays valid for the
    life of the process. May be called from any thread.
    """
    address = _addresses.get(key)
    if address is not None:
        return address
    with _lock:
        address = _addresses.get(key)
        if address is not None:
            return address
        this_host = host()
        name = entry_name(key)
        path = cache_directory() / (hashlib.sha256(f"{key}\n{this_host.fingerprint}".encode()).hexdigest() + ".o")
        image = _read_image(path)
        if image is None:
            image = _compile(this_host, build())
            _write_image(path, image)
        address = _load(this_host, image, name)
        _addresses[key] = address
        return address


def _optimised(this_host: _Host, text: str) -> llvm.ModuleRef:
    """The module after the few passes our IR needs: it is vectorised already, and its loops are as they should be.

    The standard pipeline of level 3 takes five times as long and gains nothing measurable on these kernels.
    """
    module = llvm.parse_assembly(
        f'target triple = "{this_host.triple}"\ntarget datalayout = "{this_host.data_layout}"\n{text}'
    )
    module.verify()
    passes = llvm.create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.add_simplify_cfg_pass()
    passes.add_instruction_combine_pass()
    passes.add_loop_rotate_pass()
    passes.add_new_gvn_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.run(module, llvm.create_pass_builder(this_host.machine, llvm.create_pipeline_tuning_options(3)))
    return module


def _compile(this_host: _Host, text: str) -> bytes:
    image = this_host.machine.emit_object(_optimised(this_host, text))
    missing = _RUNTIME_FUNCTION.search(image)
    if missing:
        raise Unsupported(f"the host needs {missing[0].decode()} of a compiler runtime that is not loaded")
    return image


def assembly(text: str) -> str:
    """The host assembly of an IR text, for people who study a kernel."""
    with _lock:
        return host().machine.emit_assembly(_optimised(host(), text))


def _load(this_host: _Host, image: bytes, name: str) -> int:
    loaded = llvm.ObjectFileRef.from_data(image)
    this_host.engine.add_object_file(loaded)
    this_host.engine.finalize_object()
    address = this_host.engine.get_function_address(name)
    if not address:
        raise RuntimeError(f"kernel {name} did not load: a symbol it needs is missing")
    this_host.loaded.append(loaded)
    return address


def _read_image(path: Path) -> bytes | None:
    """The object in the cache file, or None when it is missing, unreadable or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    header = len(_MAGIC) + 32
    image = content[header:]
    if not content.startswith(_MAGIC) or hashlib.sha256(image).digest() != content[len(_MAGIC) : header]:
        return None
    return image


def _write_image(path: Path, image: bytes) -> None:
    """Write through a temporary file and a rename, so that readers see all of it or nothing; failure is harmless."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    except OSError:
        return
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(_MAGIC + hashlib.sha256(image).digest() + image)
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
