"""`dagrun scale`: the shares from a trace, the figures, the picture."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

import dagrun as dr
from dagrun.cli import scaling, scaling_plot
from dagrun.cli.main import main
from dagrun.core.trace import TaskRecord


def task(sequence: int, device: str, lane: str, begin_ns: int, end_ns: int) -> TaskRecord:
    name = {"compute": "matmul", "communication": "all_reduce.reduce", "copy": "to_device"}[lane]
    return TaskRecord(
        sequence=sequence, name=name, device=device, lane=lane, worker="worker 0", file="", line=0, function="",
        accesses=(), predecessors=(), recorded_ns=1, begin_ns=begin_ns, end_ns=end_ns, shapes="", priority=0,
        failed=False,
    )  # fmt: skip


def test_shares_of_a_trace() -> None:
    r"""time          10   20   30   40   50
    cpu:0 compute     ==========
    cpu:1 compute          ==========
    cpu:1 collective            ==========
    """
    records = [
        task(1, "cpu:0", "compute", 10, 30),
        task(2, "cpu:1", "compute", 20, 40),
        task(3, "cpu:1", "communication", 30, 50),
    ]
    found = scaling.shares(records)
    assert found.communication == pytest.approx(1 / 3)  # 20 of 60
    assert found.computing_together == pytest.approx(1 / 3)  # 20 to 30 of 10 to 40
    assert found.hidden == pytest.approx(1 / 2)  # 30 to 40 of 30 to 50


def test_two_tasks_of_one_device_are_not_two_devices() -> None:
    found = scaling.shares([task(1, "cpu:0", "compute", 10, 30), task(2, "cpu:0", "compute", 10, 30)])
    assert found == scaling.Shares(communication=0.0, computing_together=0.0, hidden=0.0)


def test_copies_between_devices_are_communication() -> None:
    found = scaling.shares([task(1, "cpu:0", "copy", 10, 20), task(2, "cpu:1", "compute", 10, 20)])
    assert found.communication == 0.5 and found.hidden == 1.0


def test_a_trace_of_nothing() -> None:
    assert scaling.shares([]) == scaling.Shares(0.0, 0.0, 0.0)


def test_within_one_lane_a_device_computes_one_task_at_a_time() -> None:
    which = dr.device("cpu:6")
    with scaling.one_lane([which]), dr.profile() as profile:
        made = [dr.ones((200, 200), device=which) @ dr.ones((200, 200), device=which) for _ in range(20)]
        dr.wait()
    assert len(made) == 20
    spans = sorted((r.begin_ns, r.end_ns) for r in profile.records if r.lane == "compute")
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))


def test_scale_leaves_figures_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="the curve is drawn by matplotlib: pip install 'dagrun[plot]'")
    monkeypatch.setattr(scaling, "cores", lambda: 2)
    settings = ["--batch", "6", "--devices", "3", "--steps", "1", "--repeats", "2"]
    assert main(["scale", "lenet", *settings, "--output", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "lenet, strong scaling: 6 rows in all, 2 cores" in shown
    assert "lenet, weak scaling: 6 rows on each device, 2 cores" in shown
    assert "3 *" in shown and "oversubscribed: more devices than the 2 cores" in shown
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    figures = json.loads((tmp_path / "scaling.json").read_text())
    assert figures["model"] == "lenet" and figures["cores"] == 2
    assert [point["rows"] for point in figures["strong"]] == [6, 6, 6]
    assert [point["rows"] for point in figures["weak"]] == [6, 12, 18]
    for curve in (figures["strong"], figures["weak"]):
        assert [point["devices"] for point in curve] == [1, 2, 3]
        assert [point["oversubscribed"] for point in curve] == [False, False, True]
        for point in curve:
            assert point["rows_per_second"] == pytest.approx(point["rows"] / point["seconds"])
            assert point["speedup"] == pytest.approx(point["rows_per_second"] / curve[0]["rows_per_second"])
            assert point["fastest"] <= point["seconds"] <= point["slowest"]
        assert curve[0]["shares"]["communication"] == 0 < curve[1]["shares"]["communication"]


def test_without_matplotlib_it_says_so_before_it_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling_plot.importlib.util, "find_spec", lambda name: None)
    settings = ["--batch", "2", "--devices", "1", "--steps", "1", "--repeats", "1", "--output", str(tmp_path)]
    assert main(["scale", "lenet", *settings]) == 1
    assert "pip install 'dagrun[plot]'" in capsys.readouterr().err
    assert main(["scale", "lenet", *settings, "--no-plot", "--mode", "weak"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["scaling.json"]
    assert "strong" not in json.loads((tmp_path / "scaling.json").read_text())
