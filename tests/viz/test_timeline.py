"""The timeline picture: well-formed, one row per worker or lane, bars where the tasks were."""

import xml.etree.ElementTree as ElementTree

import pytest

from dagrun.viz.style import DEVICE_COLOURS, FAILED_COLOUR, OPERATOR_COLOURS, format_nbytes, format_ns
from dagrun.viz.timeline import save_timeline, timeline_svg

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def bars(svg: str) -> list[tuple[str, float, float, float]]:
    """Of each bar: first line of the tooltip, x, width, y."""
    found = []
    for rect in ElementTree.fromstring(svg).iter(f"{SVG}rect"):
        title = rect.find(f"{SVG}title")
        if title is not None:
            found.append((title.text.splitlines()[0], *(float(rect.get(key)) for key in ("x", "width", "y"))))
    return found


def test_diamond(diamond, tmp_path) -> None:
    svg = save_timeline(diamond.records, tmp_path / "t.svg", title="The diamond & <more>").read_text()
    assert "The diamond & <more>" in texts(svg)
    assert [text for text in texts(svg) if text.startswith("worker")] == ["worker 0", "worker 1"]
    assert {"92 %", "33 %", "time in ms", "0.00", "0.02", "0.12"} <= set(texts(svg))
    assert {"add 47 %", "multiply 47 %", "ones 7 %"} <= set(texts(svg))
    drawn = {name: (x, width) for name, x, width, _ in bars(svg)}
    left, _ = drawn["ones on cpu:0, 10.0 us"]
    begin, width = drawn["add on cpu:0, 40.0 us"]
    pixels_per_us = (begin - left) / 30
    assert width == pytest.approx(40 * pixels_per_us, abs=1)
    assert len({y for *_, y in bars(svg)}) == 2
    with pytest.raises(ValueError, match=r"written as \.svg, not \.png"):
        save_timeline(diamond.records, tmp_path / "t.png")


def test_rows_by_device(make_training) -> None:
    records = make_training(1).records
    labels = [text for text in texts(timeline_svg(records, rows="device")) if text.startswith("cpu:")]
    assert labels == [f"cpu:{d} {lane}" for d in (0, 1) for lane in ("compute", "copy", "communication")]
    by_worker = timeline_svg(records)
    assert all(f'fill="{colour}"' in by_worker for colour in DEVICE_COLOURS[:2])  # strips tell the devices apart
    assert [text for text in texts(by_worker) if text.startswith("cpu:")] == ["cpu:0", "cpu:1"]  # in the legend
    with pytest.raises(ValueError, match="'lane'"):
        timeline_svg(records, rows="lane")


def test_window(diamond) -> None:
    svg = timeline_svg(diamond.records, window_ms=(0.01, 0.03))
    assert [name for name, *_ in bars(svg)] == ["multiply on cpu:0, 20.0 us"]
    assert {"0.010", "0.030", "100 %"} <= set(texts(svg))
    with pytest.raises(ValueError, match="begin < end"):
        timeline_svg(diamond.records, window_ms=(2, 1))


def test_many_short_tasks_stay_a_small_file(make_training) -> None:
    svg = timeline_svg(make_training(400).records)
    assert len(svg) < 1_000_000
    assert 1000 < len(bars(svg)) < 2 * 2 * 1000 + 10  # at most one bar per half pixel and row
    assert "short tasks, the longest" in svg


def test_failed_tasks_have_a_red_edge(program) -> None:
    program.task("take", [], ["x"], failed=True)
    svg = timeline_svg(program.records)
    assert f'stroke="{FAILED_COLOUR}"' in svg
    assert "take on cpu:0, 10.0 us, failed" in svg


def test_operators_beyond_the_palette_are_other(program) -> None:
    for i in range(len(OPERATOR_COLOURS) + 3):
        program.task(f"op{i}", [], [f"x{i}"])
    assert "other 25 %" in texts(timeline_svg(program.records))


def test_nothing_ran(program) -> None:
    program.task("add", [], ["x"], run=False)
    for records in ([], program.records):
        assert bars(timeline_svg(records, title="empty")) == []


def test_units() -> None:
    assert [format_ns(n) for n in (0, 999, 999.9, 1000, 99_960, 1_234_567, 2.5e9)] == [
        "0 ns", "999 ns", "1.00 us", "1.00 us", "100 us", "1.23 ms", "2.50 s",
    ]  # fmt: skip
    assert [format_nbytes(n) for n in (0, 999, 1000, 12_345_678, 5_000_000_000)] == [
        "0 B", "999 B", "1.00 kB", "12.3 MB", "5.00 GB",
    ]  # fmt: skip
