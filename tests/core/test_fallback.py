"""The Python executor does what the native one does: both run the same scenarios, each in a process of its own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("both_cores.py")
_spec = importlib.util.spec_from_file_location("both_cores", SCRIPT)
assert _spec and _spec.loader
both_cores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(both_cores)

CORES = ["python", "native"] if both_cores.native_file() else ["python"]
NAMES = [scenario.__name__ for scenario in both_cores.SCENARIOS]


@cache
def run(core: str, scenario: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(SCRIPT), core, scenario]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("scenario", NAMES)
def test_scenario(core: str, scenario: str) -> None:
    result = run(core, scenario)
    assert result.returncode == 0 and not result.stderr, result.stderr


@pytest.mark.skipif(len(CORES) == 1, reason="the native core is not built")
@pytest.mark.parametrize("scenario", NAMES)
def test_cores_agree(scenario: str) -> None:
    assert run("python", scenario).stdout == run("native", scenario).stdout
