"""The Python core makes its nodes in Python: the same tests hold there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
def test_autodiff_on_the_python_core() -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not long", "-p", "no:cacheprovider"]
    files = [str(here / name) for name in ("test_autodiff.py", "test_views_and_writes.py")]
    done = subprocess.run(
        [*command, *files],
        env=os.environ | {"DAGRUN_CORE": "python"},
        cwd=here.parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
