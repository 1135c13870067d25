"""The Python executor does what the native one does: both run the same scenarios, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from core.both_cores import SCENARIOS, native_file

CORES = ["python", "native"] if native_file() else ["python"]


@cache
def run(core: str, scenario: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "both_cores", core, scenario]
    here = Path(__file__).parent
    return subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(core: str, scenario: str) -> None:
    result = run(core, scenario)
    assert result.returncode == 0 and not result.stderr, result.stderr


@pytest.mark.skipif(len(CORES) == 1, reason="the native core is not built")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_cores_agree(scenario: str) -> None:
    assert run("python", scenario).stdout == run("native", scenario).stdout
