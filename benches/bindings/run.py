"""Measure three ways of binding a recorder to Python: raw C API, nanobind, Cython; beside pure Python and NumPy.

    python benches/bindings/run.py [--output benches/results/bindings.json]

Each binding has a `Handle` whose `a + b` makes a new handle and appends a 16-byte record to a native ring, and a
`push(reads, writes)` that takes two small tuples of handles. Needs a C++ compiler, and nanobind and Cython from the
`bench` extra. The candidates run in a fresh random order in every round, on one core; the figure is the median.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

HERE = Path(__file__).resolve().parent
BINDINGS = {"raw C API": "recorder_raw", "nanobind": "recorder_nanobind", "Cython": "recorder_cython"}
FLAGS = [
    "-O3",
    "-std=c++17",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-DNDEBUG",
]  # nanobind needs the last but one


def build(folder: Path) -> None:
    """Build the three extensions into `folder`, with the same compiler and flags."""
    import nanobind
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    # build_ext compiles paths outside its build folder in odd places, so everything starts inside `folder`.
    for source in (*HERE.glob("recorder_*.cpp"), *HERE.glob("*.pyx"), *HERE.glob("*.h")):
        (folder / source.name).write_bytes(source.read_bytes())
    runtime = Path(nanobind.include_dir()).parent / "src"
    (folder / "nanobind_runtime.cpp").write_text(f'#include "{runtime / "nb_combined.cpp"}"\n')
    nanobind_include = [nanobind.include_dir(), str(runtime.parent / "ext" / "robin_map" / "include"), str(runtime)]

    def extension(name: str, *sources: str, include: list[str] | None = None) -> Extension:
        return Extension(
            name, list(sources), include_dirs=[".", *(include or [])], extra_compile_args=FLAGS, language="c++"
        )

    here = Path.cwd()
    os.chdir(folder)
    try:
        extensions = [
            extension("recorder_raw", "recorder_raw.cpp"),
            extension("recorder_nanobind", "recorder_nanobind.cpp", "nanobind_runtime.cpp", include=nanobind_include),
            *cythonize([extension("recorder_cython", "recorder_cython.pyx")], quiet=True),
        ]
        distribution = Distribution({"name": "recorders", "ext_modules": extensions})
        distribution.verbose = 0
        command = distribution.get_command_obj("build_ext")
        command.inplace = True
        command.ensure_finalized()
        command.run()
    finally:
        os.chdir(here)


def check(recorder: ModuleType) -> None:
    """Every binding must do the same work before it is timed."""
    a, b = recorder.Handle(), recorder.Handle()
    recorded, live = recorder.counts()
    c = a + b
    assert recorder.counts() == (recorded + 1, live + 1)
    assert recorder.push((a, b), (c,)) == recorded + 2
    del c
    assert recorder.counts() == (recorded + 2, live)
    for wrong in (lambda: a + 1, lambda: recorder.push((a, b), ())):
        try:
            wrong()
        except TypeError:
            continue
        raise AssertionError("a wrong argument was accepted")


def candidates() -> dict[tuple[str, str], timeit.Timer]:
    """Timers by (binding, operation)."""
    timers = {("empty loop", "add"): timeit.Timer("pass")}
    for label, name in {**BINDINGS, "Python slots class": "recorder_python"}.items():
        recorder = importlib.import_module(name)
        check(recorder)
        names = {"a": recorder.Handle(), "b": recorder.Handle(), "c": recorder.Handle(), "push": recorder.push}
        timers[label, "add"] = timeit.Timer("a + b", globals=names)
        timers[label, "push"] = timeit.Timer("push((a, b), (c,))", globals=names)
    arrays = {"a": np.ones(16), "b": np.ones(16)}
    timers["NumPy, 16 float64", "add"] = timeit.Timer("a + b", globals=arrays)
    return timers


def measure(
    timers: dict[tuple[str, str], timeit.Timer], rounds: int, number: int
) -> dict[tuple[str, str], list[float]]:
    """Nanoseconds per operation, one figure per round."""
    samples: dict[tuple[str, str], list[float]] = {key: [] for key in timers}
    shuffle: Callable[[list[tuple[str, str]]], None] = random.Random(0).shuffle
    for _ in range(rounds):
        order = list(timers)
        shuffle(order)
        for key in order:
            timers[key].timeit(number // 10)  # warm caches and the specialising interpreter
            samples[key].append(timers[key].timeit(number) / number * 1e9)
    return samples


def cpu_model() -> str:
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def compiler_version() -> str:
    """The first line that the C++ compiler says of itself."""
    compiler = os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++"
    try:
        return subprocess.run(
            [*compiler.split(), "--version"], capture_output=True, text=True, check=True
        ).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return compiler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE.parent / "results" / "bindings.json")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--number", type=int, default=50_000, help="operations per round")
    options = parser.parse_args()

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(prefix="bindings-") as folder:
        build(Path(folder))
        sys.path[:0] = [folder, str(HERE)]
        samples = measure(candidates(), options.rounds, options.number)

    figures: dict[str, dict[str, dict[str, float]]] = {}
    for (label, operation), values in samples.items():
        low, _, high = statistics.quantiles(values, n=4)
        figures.setdefault(label, {})[operation] = {
            "median_ns": round(statistics.median(values), 1),
            "quartiles_ns": [round(low, 1), round(high, 1)],
        }
    report = {
        "what": "nanoseconds per operation, the loop included",
        "cpu": cpu_model(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "nanobind": importlib.metadata.version("nanobind"),
        "cython": importlib.metadata.version("cython"),
        "compiler": compiler_version(),
        "flags": FLAGS,
        "rounds": options.rounds,
        "operations_per_round": options.number,
        "figures": figures,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")

    print(f"{report['cpu']}, Python {report['python']}, NumPy {report['numpy']}, {report['compiler']}")
    print(f"{'ns (median of ' + str(options.rounds) + ' rounds)':28}{'a + b':>10}{'push':>10}")
    for label, operations in figures.items():
        cells = [
            f"{operations[name]['median_ns']:10.1f}" if name in operations else f"{'-':>10}" for name in ("add", "push")
        ]
        print(f"{label:28}{''.join(cells)}")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
