"""kill -9 at random moments: what is on the disk is always what the run that was never killed had written."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path

import pytest
from killed import train


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=[pytest.mark.long, pytest.mark.timeout(1200)])])
def test_kills_at_random_moments(kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of every step are those of the whole run, byte by byte, whenever and however often it was killed.

    They hold parameters, running statistics, optimizer, schedule, generator, loader, residuals and history.
    """
    monkeypatch.setenv("PYTHONPATH", str(Path(train.__code__.co_filename).parent), prepend=os.pathsep)
    server = multiprocessing.get_context("forkserver")  # imports once: a process starts in milliseconds
    server.set_forkserver_preload(["killed"])

    def start(folder: Path, keep: int = 2) -> multiprocessing.process.BaseProcess:
        process = server.Process(target=train, args=(folder, keep))
        process.start()
        return process

    whole = tmp_path / "whole"
    for _ in range(2):  # the second time with all kernels compiled
        shutil.rmtree(whole, ignore_errors=True)
        begin = time.monotonic()
        process = start(whole, keep=10**6)
        process.join()
        seconds = time.monotonic() - begin
        assert process.exitcode == 0
    expected = {path.name: path.read_bytes() for path in whole.iterdir()}
    assert len(expected) == 20

    moments = random.Random(0)
    folder, killed, ends, seen = tmp_path / "killed", 0, 0, set()
    while killed < kills:
        process = start(folder)
        process.join(moments.uniform(0, seconds))
        process.kill()
        process.join()
        assert process.exitcode in (0, -9)
        killed += process.exitcode == -9
        written = sorted(folder.glob("step-*")) if folder.exists() else []
        for path in written:
            assert path.read_bytes() == expected[path.name]
            seen.add(path.name)
        if process.exitcode == 0:
            assert written[-1].name == max(expected)
            ends += 1
            shutil.rmtree(folder)
    process = start(folder)  # and the last one comes to its end
    process.join()
    assert process.exitcode == 0
    assert (folder / max(expected)).read_bytes() == expected[max(expected)]
    assert len(seen) >= min(kills // 4, len(expected) // 2)
