"""Builds the stress test of the native executor and runs it: plain and short, and long under the sanitizers."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "dagrun" / "native"
STRESS = Path(__file__).with_name("stress.cpp")
EMULATOR = Path(__file__).parents[1] / "cuda" / "emulator.cpp"  # of GPUs; it exports the driver's names
COMPILER = shlex.split(os.environ.get("CXX", "")) or [shutil.which("g++") or shutil.which("c++") or ""]


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)


def compile_all(sources: list[Path], flags: list[str], folder: Path) -> Path:
    """The program made of `sources`, each compiled by a process of its own."""
    builds = []
    for source in sources:
        made = folder / f"{source.stem}.o"
        command = [*COMPILER, "-std=c++17", "-g", *flags, "-pthread", f"-I{NATIVE}", "-c", str(source), "-o", str(made)]
        builds.append((made, subprocess.Popen(command, stderr=subprocess.PIPE, text=True)))
    for made, build in builds:
        errors = build.communicate()[1]
        assert build.returncode == 0, f"{made.stem} does not compile:\n{errors}"
    program = folder / "program"
    linked = run(
        [*COMPILER, *flags, "-pthread", *(str(made) for made, _ in builds), "-rdynamic", "-ldl", "-o", str(program)]
    )
    assert linked.returncode == 0, linked.stderr
    return program


def build(folder: Path, *flags: str) -> Path:
    """The stress test with the native core that knows no Python; skips where it cannot be built or run."""
    if not shutil.which(COMPILER[0]):
        pytest.skip("no C++ compiler (g++, c++ or $CXX): the native core cannot be built here")
    probe = folder / "probe"
    (folder / "probe.cpp").write_text("#include <thread>\nint main() { std::thread([] {}).join(); }\n")
    command = [*COMPILER, "-std=c++17", *flags, "-pthread", str(folder / "probe.cpp"), "-o", str(probe)]
    tried = run(command)
    if tried.returncode == 0:
        tried = run([*fixed_addresses(flags), str(probe)])
    if tried.returncode != 0:
        pytest.skip(f"{COMPILER[0]} with {' '.join(flags)} makes no program that runs here: {tried.stderr[-200:]}")
    sources = [
        path for path in sorted(NATIVE.glob("*.cpp")) if not re.search(r"Python\.h|objects\.h", path.read_text())
    ]
    return compile_all([STRESS, EMULATOR, *sources], list(flags), folder)


def fixed_addresses(flags: tuple[str, ...]) -> list[str]:
    """ThreadSanitizer maps memory at fixed places, which some kernels' address randomisation takes."""
    command = ["setarch", os.uname().machine, "-R"]
    if "-fsanitize=thread" in flags and shutil.which("setarch") and run([*command, "true"]).returncode == 0:
        return command
    return []


def check(program: list[str], scenario: str, seed: int, rounds: float) -> None:
    result = run([*program, scenario, str(seed), str(rounds)], TSAN_OPTIONS="halt_on_error=1 second_deadlock_stack=1")
    report = f"exit code {result.returncode}\n{result.stdout[-3000:]}\n{result.stderr[-6000:]}"
    assert result.returncode == 0, report
    assert result.stdout.endswith("all well\n"), report


def test_the_native_executor_under_stress(tmp_path: Path) -> None:
    check([str(build(tmp_path))], "all", 1, 0.25)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("flags", "rounds"),
    [
        pytest.param(("-O1", "-fno-omit-frame-pointer", "-fsanitize=thread"), 0.8, id="thread"),
        pytest.param(
            ("-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
            2.0,
            id="address",
        ),
        pytest.param(("-O2",), 5.0, id="plain"),
    ],
)
def test_the_native_executor_under_stress_and_sanitizers(tmp_path: Path, flags: tuple[str, ...], rounds: float) -> None:
    check([*fixed_addresses(flags), str(build(tmp_path, *flags))], "all", 1000, rounds)
