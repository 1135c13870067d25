"""The benchmarks for GPUs are run by machines that nobody watches: here they run on the emulator, in tiny sizes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda.emulated import COMPILER

ROOT = Path(__file__).parent.parent


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(COMPILER is None, reason="the emulator is built with a C++ compiler, and there is none")
@pytest.mark.skipif(os.environ.get("DAGRUN_CORE") == "python", reason="CUDA devices need the native core")
def test_every_gpu_benchmark_runs(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "benches", "--timeout", "0"]
    done = subprocess.run(
        [*command, "-o", "faulthandler_timeout=0"],
        env={
            **os.environ,
            "DAGRUN_BENCH_SMALL": "1",
            "DAGRUN_BENCH_RESULTS": str(tmp_path),
            "DAGRUN_TEST_CUDA": "emulated",
            "DAGRUN_CUDA_LOGICAL": "2",
            "DAGRUN_EMULATED_GPUS": "1",
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert not re.search(r"skipped|emulator:", done.stdout + done.stderr), done.stdout[-3000:] + done.stderr[-2000:]
    report = json.loads((tmp_path / "gpu-emulated-gpu-0.json").read_text())
    assert report["machine"]["gpu"] == "emulated GPU 0"
    sources = [(ROOT / "benches" / name).read_text() for name in ("bench_gpu.py", "bench_launch.py")]
    tests = re.findall(r"^def (test_\w+)", "\n".join(sources), re.MULTILINE)
    assert {name.split("::")[1].split("[")[0] for name in report["benches"]} == set(tests)
    assert all(report["benches"].values())
    table = (tmp_path / "gpu-emulated-gpu-0.md").read_text()
    assert table.startswith("# Benchmarks on a GPU\n\nemulated GPU 0, 1.0 GiB"), table[:200]
