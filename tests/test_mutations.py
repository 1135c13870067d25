"""Every rule of the engine, broken on purpose, is noticed: each mutant is built from the sources and must fail."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parent.parent
TESTS = {
    "engine": ["tests/test_tour.py", "tests/test_promises.py", "tests/test_random_programs.py"],
    "emulator": ["tests/cuda/test_devices.py"],
    "graphs": ["tests/cuda/test_batches.py", "tests/cuda/test_graphs.py"],
}
# A failure is enough: nobody reads the smallest program.
NO_SHRINKING = """
from hypothesis import Phase, settings
settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate], database=None)
settings.load_profile("mutants")
"""
CASES = [(mutation, where) for mutation in MUTATIONS for where in mutation.on]
COMPILER = shutil.which(os.environ.get("CXX", "g++"))


def builds(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that compiles the engine."""
    without = pytest.mark.skipif(COMPILER is None, reason="mutants are built with a C++ compiler, and there is none")
    return pytest.mark.long(pytest.mark.timeout(900)(without(test)))


def test_every_rule_stands_in_the_sources_once() -> None:
    found = {m.name: (ROOT / "dagrun" / "native" / m.file).read_text().count(m.old) for m in MUTATIONS}
    assert found == dict.fromkeys(found, 1) and len(found) == len(MUTATIONS)


def compile_source(source: Path, target: Path) -> None:
    include = sysconfig.get_path("include")
    command = [
        COMPILER,
        "-std=c++17",
        "-O1",
        "-DNDEBUG",
        "-fPIC",
        "-pthread",
        f"-I{include}",
        "-c",
        source,
        "-o",
        target,
    ]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Workshop:
    """A copy of the package and its tests, with the native sources compiled once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / "dagrun", folder / "dagrun", ignore=ignored)
        for name in ("tests", "kernels"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", folder)
        (folder / "conftest.py").write_text(NO_SHRINKING)
        self.native = folder / "dagrun" / "native"
        self.objects = folder / "objects"
        self.objects.mkdir()
        for source in sorted(self.native.glob("*.cpp")):
            compile_source(source, self.objects / f"{source.stem}.o")

    def build(self, changed: list[str]) -> None:
        """Links the extension, with these sources compiled anew."""
        objects = {path.stem: path for path in self.objects.glob("*.o")}
        for stem in changed:
            objects[stem] = self.folder / f"{stem}.mutant.o"
            compile_source(self.native / f"{stem}.cpp", objects[stem])
        target = self.folder / "dagrun" / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
        command = [str(COMPILER), "-shared", "-pthread", *map(str, objects.values()), "-o", str(target)]
        subprocess.run(command, check=True)

    def test(self, where: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "--timeout",
            "40",
            *TESTS[where],
        ]
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.folder),
            "DAGRUN_CORE": "native",
            "DAGRUN_EXIT_SECONDS": "1",
        }
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running = subprocess.Popen(command, cwd=self.folder, env=environment, start_new_session=True, **pipes)
        try:
            stdout, stderr = running.communicate(timeout=800)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)  # programs that tests started hang on where a mutant does
        return subprocess.CompletedProcess(command, running.returncode, stdout, stderr)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    made = Workshop(tmp_path_factory.mktemp("mutants") / "tree")
    made.build([])
    return made


@builds
@pytest.mark.parametrize("where", TESTS)
def test_the_engine_as_it_is_passes(workshop: Workshop, where: str) -> None:
    workshop.build([])
    done = workshop.test(where)
    assert done.returncode == 0, f"the engine as it is fails:\n{done.stdout}\n{done.stderr}"


@builds
@pytest.mark.parametrize(("mutation", "where"), CASES, ids=[f"{m.name}-{where}" for m, where in CASES])
def test_mutants_are_caught(workshop: Workshop, mutation: Mutation, where: str) -> None:
    path = workshop.native / mutation.file
    original = path.read_text()
    assert original.count(mutation.old) == 1, f"{mutation.file} no longer holds the text of this mutation exactly once"
    path.write_text(original.replace(mutation.old, mutation.new))
    try:
        stems = [path.stem] if path.suffix == ".cpp" else [source.stem for source in workshop.native.glob("*.cpp")]
        workshop.build(stems)
        assert workshop.test(where).returncode != 0, "every test passes with this rule broken"
    finally:
        path.write_text(original)
