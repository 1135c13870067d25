"""What all benchmarks share: paired rounds, claims against a target, and the table of results.

A benchmark runs dagrun and its peers in turn within every round, so that both see the same machine; a claim is the
median over rounds of the ratio of the two, set against a target. Every claim becomes a line at the end of the run and a
row of `benches/results/cpu.md` (and `cpu.json`), or, on a GPU, of `gpu-<its name>.md`. A target that is not met is
reported, it does not fail the run.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import platform
import re
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dagrun as dr
from dagrun.backends import cuda
from dagrun.core import configure, engine_stats, native
from dagrun.errors import DeviceError

BENCHES = Path(__file__).parent
RESULTS = Path(os.environ.get("DAGRUN_BENCH_RESULTS") or BENCHES / "results")
# Before each measured run, until idle threads of the run before have stopped spinning.
QUIET_SECONDS = 0.01
BLAS_QUIET_SECONDS = 0.1  # the threads of OpenBLAS spin for 2**26 cycles, those of OpenMP for some milliseconds

Run = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Claim:
    """One comparison: two medians, their ratio, and what was wanted of it."""

    name: str
    ours: str
    peer: str
    ratio: float
    target: str  # empty: for information
    met: bool | None  # None: no target

    def line(self) -> str:
        verdict = {True: "met", False: "NOT MET", None: "for information"}[self.met]
        wanted = f" (target {self.target})" if self.target else ""
        return f"{self.name}: dagrun {self.ours}, {self.peer}, ratio {self.ratio:.3g}{wanted}: {verdict}"


def with_unit(value: float, unit: str) -> str:
    """A figure with three digits: seconds as "us" or "ms", anything else as it is."""
    scale = {"us": 1e6, "ms": 1e3}.get(unit, 1.0)
    digits = f"{value * scale:.3g}" if abs(value * scale) < 1000 else f"{value * scale:.0f}"
    return f"{digits} {unit}".strip()


class Bench:
    """The paired rounds of one test and the claims made of them."""

    def __init__(self, benchmark: Any) -> None:
        self.benchmark = benchmark
        self.seconds: dict[str, list[float]] = {}
        benchmark.extra_info["claims"] = []

    def run(
        self, ours: Run, peers: dict[str, Run], *, rounds: int, warmup: int = 2, per: int = 1, blas: bool = False
    ) -> None:
        """Runs every peer and then dagrun in each of `rounds` rounds, after `warmup` rounds that do not count.

        A run may return the seconds it took, where its preparation is not to be measured; else the whole call counts.
        Figures are shown for one of `per` operations. `blas`: some peer leaves BLAS or OpenMP threads behind.
        """
        samples: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}

        def timed(name: str, run: Run) -> None:
            time.sleep(BLAS_QUIET_SECONDS if blas else QUIET_SECONDS)
            begin = time.perf_counter()
            own = run()
            samples[name].append(own if isinstance(own, float) else time.perf_counter() - begin)

        def run_peers() -> None:
            for name, run in peers.items():
                timed(name, run)

        self.benchmark.pedantic(timed, ("ours", ours), setup=run_peers, rounds=rounds, warmup_rounds=warmup)
        self.benchmark.stats.stats.data = samples["ours"][-rounds:]  # without the quiet and the preparation
        self.seconds = {name: [s / per for s in values[-rounds:]] for name, values in samples.items()}

    @staticmethod
    def torch() -> Any:
        """The module, or None where it is not installed; what it warns of while it loads is not shown."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return importlib.import_module("torch")
            except ImportError:
                return None

    @staticmethod
    def clock(function: Callable[..., Any], *arguments: Any) -> float:
        """The seconds that a call takes."""
        begin = time.perf_counter()
        function(*arguments)
        return time.perf_counter() - begin

    @staticmethod
    def in_threads(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> None:
        """Calls the function with each tuple of arguments in a thread of its own; the first in this one."""
        threads = [threading.Thread(target=function, args=own) for own in arguments[1:]]
        for thread in threads:
            thread.start()
        function(*arguments[0])
        for thread in threads:
            thread.join()

    def median(self, name: str = "ours") -> float:
        return statistics.median(self.seconds[name])

    def against(
        self, name: str, peer: str, unit: str = "ms", *, at_least: float | None = None, at_most: float | None = None
    ) -> None:
        """Claims the median ratio to a peer of the last run: how many times its speed, or (`at_most`) its time."""
        pairs = zip(self.seconds["ours"], self.seconds[peer], strict=True)
        ratio = statistics.median(ours / its if at_most is not None else its / ours for ours, its in pairs)
        shown = f"{peer} {with_unit(self.median(peer), unit)}"
        self.claim(name, with_unit(self.median(), unit), shown, ratio, at_least=at_least, at_most=at_most)

    def limit(
        self, name: str, value: float, unit: str, at_most: float | None = None, at_least: float | None = None
    ) -> None:
        """Claims a figure against a fixed limit; the ratio is the share of the limit."""
        bound = at_most if at_most is not None else at_least
        assert bound is not None
        met = value <= bound if at_most is not None else value >= bound
        wanted = f"{'at most' if at_most is not None else 'at least'} {with_unit(bound, unit)}"
        self._keep(Claim(name, with_unit(value, unit), f"limit {with_unit(bound, unit)}", value / bound, wanted, met))

    def figure(self, name: str, value: float, unit: str) -> None:
        """A figure without anybody to compare with."""
        self._keep(Claim(name, with_unit(value, unit), "", 1.0, "", None))

    def claim(
        self, name: str, ours: str, peer: str, ratio: float, at_least: float | None = None, at_most: float | None = None
    ) -> None:
        """Claims a ratio that the test worked out itself."""
        target, met = "", None
        if at_least is not None:
            target, met = f"at least {at_least:g} times its speed", ratio >= at_least
        elif at_most is not None:
            target, met = f"at most {at_most:g} times its time", ratio <= at_most
        self._keep(Claim(name, ours, peer, ratio, target, met))

    def _keep(self, claim: Claim) -> None:
        self.benchmark.extra_info["claims"].append(asdict(claim))


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Bench:
    """Paired rounds and claims for one test; on a GPU, if the test is marked so and there is one."""
    gpu = open_gpu() if request.node.get_closest_marker("gpu") else None
    made = Bench(request.getfixturevalue("benchmark"))
    made.benchmark.extra_info["gpu"] = gpu
    return made


def open_gpu() -> dict[str, Any]:
    """Opens the CUDA devices; what figures on the first GPU depend on."""
    if os.environ.get("DAGRUN_TEST_CUDA") == "emulated":
        from tests.cuda.emulated import use_emulator

        use_emulator()
    try:
        dr.zeros(1, device="cuda:0").wait()
    except DeviceError as error:
        pytest.skip(str(error))
    name, nbytes, capability, _ = native.describe_gpu(0)
    torch = Bench.torch()
    return {
        "gpu": name,
        "gib": round(nbytes / 2**30, 1),
        "capability": capability / 10,
        "platform": cuda.platform().name,
        "torch": torch.__version__ if torch else "none",
    }


@pytest.fixture(autouse=True)
def engine_as_before() -> Iterator[None]:
    """Each test begins and ends with an idle engine in its default setting."""
    if engine_stats()["core"] != "native":
        pytest.skip("the native core is not built here: these figures are about it")
    faulthandler.cancel_dump_traceback_later()  # a long benchmark is no hang
    defaults = configure()
    yield
    native.pause(False)
    dr.wait()
    configure(**defaults)


# ---- pytest's hooks: which tests, and the report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Benchmarks of many minutes run only where they are asked for: `pytest benches -m long`."""
    if "long" not in config.option.markexpr:
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def machine() -> dict[str, Any]:
    """What the figures depend on, without what would name the machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": model, "cores": cores, "python": platform.python_version(), "numpy": np.__version__}


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Keeps host names out of what --benchmark-json writes."""
    machine_info.clear()
    machine_info.update(machine())


@pytest.hookimpl(trylast=True)  # after the table of pytest-benchmark
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    benchmarks = session.benchmarks if session else []
    if not benchmarks:
        return
    terminalreporter.section("claims")
    for benchmark in benchmarks:
        for claim in benchmark.extra_info["claims"]:
            terminalreporter.write_line(Claim(**claim).line())
    for gpu in {(b.extra_info["gpu"] or {}).get("gpu"): b.extra_info["gpu"] for b in benchmarks}.values():
        made = {b.fullname.split("/")[-1]: b.extra_info["claims"] for b in benchmarks if b.extra_info["gpu"] == gpu}
        terminalreporter.write_line(f"written to {write_results(gpu, made)}")


def write_results(gpu: dict[str, Any] | None, made: dict[str, Any]) -> Path:
    """Adds claims, by benchmark, to what is known of this machine; returns the table's path."""
    where = machine() | (gpu or {})
    name = "gpu-" + re.sub("[^a-z0-9]+", "-", gpu["gpu"].lower()).strip("-") if gpu else "cpu"
    path = RESULTS / f"{name}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    kept = known["benches"] if known.get("machine") == where else {}
    merged = {name: claims for name, claims in {**kept, **made}.items() if still_there(name)}
    report = {"machine": where, "benches": dict(sorted(merged.items()))}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    path.with_suffix(".md").write_text(table(report))
    return path.with_suffix(".md")


def still_there(name: str) -> bool:
    """Whether the benchmark of an earlier run, "file::test[parameter]", still exists."""
    file, test = name.split("::")
    path = BENCHES / file
    return path.exists() and f"def {test.split('[')[0]}(" in path.read_text()


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    where = report["machine"]
    host = f"{where['cpu']}, {where['cores']} cores, Python {where['python']}, NumPy {where['numpy']}"
    gpu = (
        f"{where['gpu']}, {where['gib']} GiB, through {where['platform']}, torch {where['torch']}; "
        if "gpu" in where
        else ""
    )
    lines = [
        f"# Benchmarks on {'a GPU' if gpu else 'CPU devices'}",
        "",
        f"{gpu}{host}.",
        "",
        f"Written by `make bench{'-gpu' if gpu else ''}`. dagrun and its peer run in turn in every round; the ratio is",
        "the median over rounds: how many times the peer's speed, or, where the target is a time, how many times the",
        "peer's time. Against a fixed limit it is the share of the limit. Only ratios carry over to other machines.",
    ]
    file = ""
    for name, claims in report["benches"].items():
        if name.split("::")[0] != file:
            file = name.split("::")[0]
            lines += ["", f"## {file}", "", "| what | dagrun | peer | ratio | target | |", "|---|---|---|---|---|---|"]
        for claim in claims:
            met = {True: "met", False: "**not met**", None: ""}[claim["met"]]
            cells = (claim["name"], claim["ours"], claim["peer"], f"{claim['ratio']:.3g}", claim["target"], met)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
