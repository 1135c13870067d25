"""Figures of small programs whose answers are known, and the text that shows them."""

from contextlib import contextmanager

import pytest

import dagrun as dr
from dagrun.viz.intervals import common, length, union
from dagrun.viz.profile import OperatorTime, Profile, Use


def test_intervals() -> None:
    assert union([]) == []
    assert union([(4, 4), (1, 2), (2, 3), (0, 1), (7, 9), (8, 12)]) == [(0, 3), (7, 12)]
    assert common([(0, 3), (7, 12)], [(2, 8), (10, 11)]) == [(2, 3), (7, 8), (10, 11)]
    assert length([(0, 3), (7, 12)]) == 8


def test_diamond(diamond) -> None:
    """ones 10, multiply 20, then add 30 beside add 40, then multiply 50 us; begun 0, 10, 30, 30, 70 us in."""
    profile = Profile(diamond.records)
    assert profile.wall_ns == 120_000
    assert profile.work_ns == 150_000
    assert [record.sequence for record in profile.critical_path] == [1, 2, 4, 5]
    assert profile.critical_path_ns == 120_000
    assert profile.ideal_speedup == 1.25
    assert profile.overlap() == 0.25  # 30 of 120 us
    assert profile.operators() == [
        OperatorTime("add", 2, 70_000, 35_000, 70 / 150),
        OperatorTime("multiply", 2, 70_000, 35_000, 70 / 150),
        OperatorTime("ones", 1, 10_000, 10_000, 10 / 150),
    ]
    assert profile.workers() == [Use("worker 0", 4, 110_000, 110 / 120), Use("worker 1", 1, 40_000, 40 / 120)]
    assert profile.lanes() == [Use("cpu:0 compute", 5, 120_000, 1.0)]


def test_waits_are_for_operands_or_for_a_lane(program) -> None:
    """Recorded at 0, 1, 2, 3 us: two run at once, the third waits for a worker, the last for operands."""
    program.task("a", [], ["x"], us=10)  # 0 to 10
    program.task("b", [], ["y"], us=20)  # 1 to 21
    program.task("c", [], ["z"], us=50)  # recorded at 2, a worker is free at 10
    program.task("d", ["z"], ["w"], us=5)  # recorded at 3, ready and begun at 60
    waits = Profile(program.records).waits
    assert (waits.dependency_ns, waits.lane_ns, waits.count) == (57_000, 8_000, 4)


def test_overlap_of_devices(program) -> None:
    program.task("a", [], ["a"], us=30, device="cpu:0")  # 0 to 30
    program.task("b", [], ["b"], us=19, device="cpu:1")  # 1 to 20
    program.task("c", ["b"], ["c"], us=20, device="cpu:1")  # 20 to 40
    program.task("d", ["c"], ["d"], us=10, device="sim:0")  # 40 to 50
    profile = Profile(program.records)
    assert profile.overlap("cpu:0", "cpu:1") == profile.overlap("cpu:1", "cpu:0") == 29 / 40
    assert profile.overlap("cpu:0", "sim:0") == 0.0
    assert profile.overlap("cpu:0", "cpu:1", "sim:0") == 0.0
    assert profile.overlap("sim:0") == 1.0
    assert profile.overlap() == 29 / 50
    with pytest.raises(ValueError, match=r"'cpu:7'; devices of this profile: cpu:0, cpu:1, sim:0"):
        profile.overlap("cpu:0", "cpu:7")


def test_tasks_that_did_not_run_or_lie_outside(program) -> None:
    program.task("a", [], ["x"], us=10)
    program.task("b", ["x"], ["y"], us=10, failed=True)
    program.task("c", ["y"], ["z"], run=False)
    profile = Profile(program.records[1:])
    assert [record.sequence for record in profile.critical_path] == [2]
    assert profile.work_ns == 10_000
    assert profile.summary().startswith("profile: 1 tasks in 19.0 us, 10.0 us of work; 1 failed, 1 not run\n")


def test_summary_reads_well(diamond) -> None:
    text = Profile(diamond.records).summary()
    assert text == str(Profile(diamond.records))
    expected = """
profile: 5 tasks in 120 us, 150 us of work

operator  tasks    total     mean   share
--------  -----  -------  -------  ------
add           2  70.0 us  35.0 us  46.7 %
multiply      2  70.0 us  35.0 us  46.7 %
ones          1  10.0 us  10.0 us   6.7 %

worker    tasks     busy  of wall
--------  -----  -------  -------
worker 0      4   110 us   91.7 %
worker 1      1  40.0 us   33.3 %

lane           tasks    busy  of wall
-------------  -----  ------  -------
cpu:0 compute      5  120 us  100.0 %

two tasks or more at once: 25.0 % of the busy time

critical path: 4 tasks, 120 us, 100.0 % of the wall time; ideal speedup 1.25
on the critical path  tasks    total   share
--------------------  -----  -------  ------
multiply train.py:4       1  50.0 us  41.7 %
add train.py:3            1  40.0 us  33.3 %
multiply train.py:1       1  20.0 us  16.7 %
ones train.py:1           1  10.0 us   8.3 %
"""
    assert text.startswith(
        expected.strip()
        + "\n\nfrom recorded to begun, mean of 5 tasks: 26.0 us for operands, then 0 ns for a free lane"
    )


def test_many_operators_and_devices_are_cut(program) -> None:
    for i in range(12):
        program.task(f"op{i}", [], [f"x{i}"], us=i + 1, device=f"cpu:{i}")
    text = Profile(program.records).summary()
    assert "\n4 more " in text
    assert "... and 58 more pairs of devices" in text
    assert text.index("cpu:2 compute") < text.index("cpu:10 compute")


def test_empty_profile() -> None:
    profile = Profile([])
    assert str(profile) == "profile: no task ran"
    assert (profile.wall_ns, profile.overlap(), profile.ideal_speedup, profile.critical_path) == (0, 0.0, 0.0, ())
    assert repr(profile) == "Profile(0 tasks in 0 ns)"


def test_profile_of_a_block_fills_at_its_end(diamond) -> None:
    @contextmanager
    def tracing():
        records = []
        yield records
        records.extend(diamond.records)

    with Profile.of_block(tracing()) as profile:
        assert profile.wall_ns == 0
    assert profile.wall_ns == 120_000


def test_profile_of_a_failing_block_keeps_what_ran(diamond) -> None:
    @contextmanager
    def tracing():
        records = []
        try:
            yield records
        finally:
            records.extend(diamond.records)

    with pytest.raises(ZeroDivisionError), Profile.of_block(tracing()) as profile:
        raise ZeroDivisionError
    assert len(profile.records) == 5


def test_profile_saves_its_pictures(diamond, tmp_path) -> None:
    profile = Profile(diamond.records)
    assert profile.save_chrome_trace(tmp_path / "trace.json").stat().st_size > 0
    assert profile.save_timeline(tmp_path / "timeline.svg", title="diamond").read_text().startswith("<svg")
    assert repr(profile.graph()) == "Graph(5 tasks, 5 edges on cpu:0)"


def test_a_block_within_another_takes_no_task_away_from_it() -> None:
    with dr.profile() as outer:
        x = dr.ones(3)
        with dr.profile() as inner:
            y = dr.exp(x)
            graph = dr.graph(lambda: dr.sin(y))
        dr.cos(y)
    assert [record.name for record in outer.records] == ["fill", "exp", "sin", "cos"]
    assert [record.name for record in inner.records] == ["exp", "sin"]
    assert [record.name for record in graph.records] == ["sin"]
    with dr.profile() as later:
        pass
    assert not later.records
