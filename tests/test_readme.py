"""The README's program is the one that the demo runs, and it is short."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_program_in_the_readme_is_the_demo() -> None:
    program = (ROOT / "dagrun/examples/lenet.py").read_text().strip()
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert program in [block.strip() for block in blocks]


@pytest.mark.parametrize("name", ["lenet", "mnist_mlp", "data_parallel"])
def test_the_programs_are_short(name: str) -> None:
    assert len((ROOT / f"dagrun/examples/{name}.py").read_text().splitlines()) <= 60


def test_the_first_program_of_the_readme_runs() -> None:
    first = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    exec(compile(first, "README.md", "exec"), {})


def test_the_examples_for_people_who_port_programs() -> None:
    failed, tried = doctest.testfile(str(ROOT / "docs/porting.md"), module_relative=False)
    assert failed == 0 and tried > 4
