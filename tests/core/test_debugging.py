"""What DAGRUN_DEBUG prints, level by level: from a trace written by hand, and of a program in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from core.test_fallback import CORES

from dagrun.core.debugging import Debugger


class Core:
    """A core that has traced nothing and runs one task."""

    def trace(self, on: bool) -> tuple[list[Any], list[Any]]:
        return [], []

    def unfinished(self, most: int) -> list[Any]:
        return [(3, "pending", "sum", "shapes", "cpu:0", ("demo.py", 3, "main"), (2,))]

    def stats(self) -> dict[str, int]:
        return {"in_flight": 1}


TASKS = [
    (1, "fill", "-> (3,)", "cpu:0", "compute", ("demo.py", 1, "main"), 0, 1000, ((7, 0, 24, 0, 0, True),), ()),
    (2, "add", "(3,) -> (3,)", "sim:0", "compute", ("demo.py", 2, "main"), 0, 2000,
     ((8, 0, 24, 0, 0, True), (7, 0, 24, 16, 8, False)), ((1, "RAW"),)),
]  # fmt: skip
RUNS = [(2, 4000, 5000, "worker 0", 1, True), (1, 2000, 3000, "main", -1, False)]

EXPECTED = [
    (1, "dagrun task 1: fill -> (3,) on cpu:0 compute, recorded at demo.py:1 in main"),
    (4, "dagrun access 1: writes buffer 7 [0, 24)"),
    (1, "dagrun task 2: add (3,) -> (3,) on sim:0 compute, recorded at demo.py:2 in main"),
    (3, "dagrun edges 2: after 1 (RAW)"),
    (4, "dagrun access 2: writes buffer 8 [0, 24)"),
    (4, "dagrun access 2: reads buffer 7 [0, 24), 8 of every 16"),
    (2, "dagrun begin 1: fill on main at 0.000001 s"),
    (2, "dagrun end 1: fill on main at 0.000002 s (1.0 us)"),
    (2, "dagrun begin 2: add on worker 0 for stream 1 at 0.000003 s"),
    (2, "dagrun end 2: add on worker 0 for stream 1 at 0.000004 s (1.0 us), failed"),
    (4, "dagrun state: 3 sum pending after 2; in_flight 1"),
]


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_lines_of_a_trace(level: int, capsys: pytest.CaptureFixture[str]) -> None:
    debugger = Debugger(Core(), level)
    debugger.show(TASKS, RUNS)
    debugger.close()
    assert capsys.readouterr().err.splitlines() == [line for least, line in EXPECTED if least <= level]


def test_a_run_seen_before_its_task_waits_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    debugger = Debugger(Core(), 2)
    debugger.show([], RUNS[1:])
    assert capsys.readouterr().err == ""
    debugger.show(TASKS[:1], [])
    debugger.close()
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "dagrun task 1", "dagrun begin 1", "dagrun end 1",
    ]  # fmt: skip


PROGRAM = """
import dagrun as dr
a = dr.ones(3)
a += 1
with dr.profile() as p, dr.profile() as q:
    b = a * 2
assert len(p.records) == len(q.records) == 1
print(b.sum().item())
"""


def run(level: int, core: str, engine: str, folder: Path) -> tuple[str, list[str]]:
    file = folder / "program.py"
    file.write_text(PROGRAM)
    root = str(Path(__file__).parents[2])
    environment = os.environ | {
        "DAGRUN_DEBUG": str(level), "DAGRUN_CORE": core, "DAGRUN_ENGINE": engine, "PYTHONPATH": root,
    }  # fmt: skip
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr.splitlines()


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("engine", ["async", "serial"])
def test_a_program(core: str, engine: str, tmp_path: Path) -> None:
    printed, lines = run(3, core, engine, tmp_path)
    assert printed == "12.0\n"
    tasks = [re.findall(r"task (\d+): (\w+) .*program.py:(\d+)", line)[0] for line in lines if "task" in line[:12]]
    assert tasks == [("1", "fill", "3"), ("2", "add", "4"), ("3", "multiply", "6"), ("4", "sum", "8")]
    for what in ("begin", "end"):
        assert sorted(line.split()[2] for line in lines if line.startswith(f"dagrun {what}")) == [
            "1:",
            "2:",
            "3:",
            "4:",
        ]
    assert [line for line in lines if line.startswith("dagrun edges")] == [
        "dagrun edges 2: after 1 (WAW)", "dagrun edges 3: after 2 (RAW)", "dagrun edges 4: after 3 (RAW)",
    ]  # fmt: skip
    assert lines[-1].startswith("dagrun: {'core':")


def test_off_prints_nothing(tmp_path: Path) -> None:
    assert run(0, CORES[-1], "async", tmp_path) == ("12.0\n", [])
