"""The Chrome trace: read back as JSON and checked against the rules of the Trace Event Format."""

import json
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import pytest

from dagrun.viz.chrome import chrome_events, save_chrome_trace


def check(events: list[dict]) -> None:
    """Tasks of a thread do not overlap; arrows come in pairs and lie inside a task; events are in order of time."""
    timed = [event for event in events if event["ph"] != "M"]
    assert [event["ts"] for event in timed] == sorted(event["ts"] for event in timed)
    threads = defaultdict(list)
    for event in timed:
        assert {"name", "ph", "pid", "tid", "ts"} <= event.keys()
        if event["ph"] == "X":
            threads[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for spans in threads.values():
        assert all(end <= begin + 1e-6 for (_, end), (begin, _) in pairwise(spans))
    arrows = defaultdict(list)
    for event in timed:
        if event["ph"] in "sf":
            arrows[event["id"]].append(event)
            inside = [b for b, e in threads[event["pid"], event["tid"]] if b <= event["ts"] <= e]
            assert len(inside) == 1
            assert (event.get("bp") == "e") == (event["ph"] == "f")
    for start, finish in arrows.values():
        assert (start["ph"], finish["ph"]) == ("s", "f")
        assert (start["cat"], start["name"]) == (finish["cat"], finish["name"])
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    assert set(threads) == named


def test_diamond(diamond) -> None:
    events = chrome_events(diamond.records)
    check(events)
    assert [(e["name"], e["args"]["name"]) for e in events if e["name"].endswith("_name")] == [
        ("process_name", "cpu:0"),
        ("thread_name", "compute: worker 0"),
        ("thread_name", "compute: worker 1"),
    ]
    tasks = [e for e in events if e["ph"] == "X"]
    assert [(e["name"], e["tid"], e["ts"], e["dur"]) for e in tasks] == [
        ("ones", 1, 0, 10),
        ("multiply", 1, 10, 20),
        ("add", 1, 30, 30),
        ("add", 2, 30, 40),
        ("multiply", 1, 70, 50),
    ]
    assert tasks[4]["args"] == {
        "sequence": 5,
        "line": "train.py:4 in step",
        "waits for": {"RAW": [3, 4]},
        "recorded to begin (us)": 66.0,
        "ready to begin (us)": 0.0,
    }
    # Two edges go from one worker to the other: multiply (1) to add (2), and that add to the last multiply.
    starts = [(e["ts"], e["tid"]) for e in events if e["ph"] == "s"]
    ends = [(e["ts"], e["tid"]) for e in events if e["ph"] == "f"]
    assert starts == [(29.999, 1), (69.999, 2)]
    assert ends == [(30.001, 2), (70.001, 1)]


def test_which_edges(make_training) -> None:
    records = make_training(1).records
    edges = [(sequence, r.sequence, kind) for r in records for sequence, kind in r.predecessors]
    for which, expected in (("none", 0), ("all", len(edges))):
        events = chrome_events(records, which)
        check(events)
        assert sum(event["ph"] == "s" for event in events) == expected
    crossing = [event for event in chrome_events(records) if event["ph"] == "s"]
    assert 0 < len(crossing) < len(edges)
    assert {event["name"] for event in crossing} == {"RAW"}
    with pytest.raises(ValueError, match="'some'"):
        chrome_events(records, "some")


def test_devices_are_processes_and_lanes_are_threads(make_training) -> None:
    events = chrome_events(make_training(2).records)
    check(events)
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert processes == {1: "cpu:0", 2: "cpu:1"}
    rows = [e["args"]["name"] for e in events if e["name"] == "thread_name" and e["pid"] == 1]
    assert [row.split(":")[0] for row in rows] == sorted(
        (row.split(":")[0] for row in rows), key=["compute", "copy", "communication"].index
    )


def test_failed_tasks_are_coloured_and_tasks_that_did_not_run_left_out(program) -> None:
    program.task("take", [], ["x"], failed=True)
    program.task("add", ["x"], ["y"], run=False)
    (task,) = [event for event in chrome_events(program.records) if event["ph"] == "X"]
    assert (task["name"], task["cname"], task["cat"]) == ("take (failed)", "terrible", "compute,failed")
    assert task["args"]["failed"] is True


def test_tasks_at_once_in_one_row_get_a_second_row(program) -> None:
    """A stream may report two tasks at once; events of one thread must not overlap."""
    program.task("a", [], ["x"])
    program.task("b", [], ["y"])
    events = chrome_events([replace(record, worker="sim:0 stream 0") for record in program.records])
    check(events)
    rows = [e["args"]["name"] for e in events if e["name"] == "thread_name"]
    assert rows == ["compute: sim:0 stream 0", "compute: sim:0 stream 0 (2)"]


def test_tasks_of_no_length_and_nothing_at_all(program) -> None:
    for _ in range(3):
        program.task("noop", ["x"], ["x"], us=0, device="cpu:0")
    check(chrome_events(program.records, "all"))
    assert chrome_events([]) == []


def test_file_is_json_and_the_same_each_time(make_training, tmp_path) -> None:
    records = make_training(2).records
    first = save_chrome_trace(records, tmp_path / "a.json")
    second = save_chrome_trace(list(reversed(records)), str(tmp_path / "b.json"))
    assert first.read_bytes() == second.read_bytes()
    trace = json.loads(first.read_text())
    assert trace["displayTimeUnit"] == "ms"
    assert trace["traceEvents"] == chrome_events(records)
