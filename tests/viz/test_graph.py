"""The graph as networkx, as dot, and as pictures."""

import re
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import networkx
import pytest

import dagrun.viz.dot as dot_module
from dagrun.core.trace import Access, TaskRecord
from dagrun.viz.fold import common_names, fold
from dagrun.viz.graph import MAX_BOXES, Graph

PNG = b"\x89PNG\r\n\x1a\n"


def boxes(source: str) -> list[str]:
    return re.findall(r"^\tt(\d+) \[", source, re.MULTILINE)


def arrows(source: str) -> set[tuple[str, str]]:
    return set(re.findall(r"^\t(\w+) -> (\w+)", source, re.MULTILINE))


def test_diamond_as_networkx(diamond) -> None:
    r"""1 ones - 2 multiply < 3 add, 4 add > 5 multiply."""
    graph = Graph(diamond.records).to_networkx()
    assert set(graph.edges) == {(1, 2), (2, 3), (2, 4), (3, 5), (4, 5)}
    assert graph.nodes[4] == {
        "name": "add",
        "device": "cpu:0",
        "lane": "compute",
        "shapes": "",
        "file": "train.py",
        "line": 3,
    }
    assert graph.edges[1, 2] == {"kind": "RAW", "nbytes": 1024}
    assert networkx.dag_longest_path_length(graph, weight=None) == 3


def test_strongest_edge_counts_and_predecessors_outside_are_left_out(program) -> None:
    program.task("zeros", [], ["x"])
    program.task("add", ["x"], ["x"])  # in place: RAW and WAW
    program.task("sum", ["x"], ["y"])
    program.task("fill", [], ["x"])  # WAR on the sum
    graph = Graph(program.records).to_networkx()
    assert {(a, b): kind for a, b, kind in graph.edges.data("kind")} == {
        (1, 2): "RAW",
        (2, 3): "RAW",
        (2, 4): "WAW",
        (3, 4): "WAR",
    }
    assert set(Graph(program.records[2:]).to_networkx().edges) == {(3, 4)}


def test_dot_shows_inputs_outputs_and_needed_hazards(program) -> None:
    program.task("add", ["x", "c"], ["y"])
    program.task("sum", ["x"], ["z"])
    program.task("fill", [], ["x"])  # must wait for both readers: two dashed edges
    names = {program.buffer("x"): "x", program.buffer("unused"): "unused"}
    graph = Graph(program.records, names, {program.buffer("z"): "z", program.buffer("x"): "x after"})
    source = graph.to_dot().source
    assert boxes(source) == ["0", "1", "2"]
    assert arrows(source) == {
        ("in0", "t0"), ("in0", "t1"), ("in2", "t0"), ("t0", "t2"), ("t1", "t2"), ("t1", "out0"), ("t2", "out1"),
    }  # fmt: skip
    assert source.count("dashed") == 2 + 1  # two hazards, and the unnamed input
    assert all(f">{label}<" in source for label in ("x", "unused", "input", "z", "x after"))
    assert arrows(graph.to_dot(hazards=False).source) == arrows(source) - {("t0", "t2"), ("t1", "t2")}


def test_hazard_implied_by_reads_is_not_drawn(program) -> None:
    """1 reads x; 2 reads what 1 made; 3 reads that and overwrites x: the chain 1, 2, 3 already orders 1 before 3."""
    program.task("a", ["x"], ["y"])
    program.task("b", ["y"], ["z"])
    program.task("c", ["z"], ["x"])
    assert ("t0", "t2") not in arrows(Graph(program.records).to_dot().source)
    assert Graph(program.records).to_networkx().edges[1, 3]["kind"] == "WAR"


def test_input_written_in_part_is_still_an_input(program) -> None:
    """x[:half] = 0; y = x + 1 reads the other half from outside, if x is known to come from outside."""
    program.task("fill", [], ["x"], nbytes=512)
    program.task("add", ["x"], ["y"])
    x = program.buffer("x")
    assert ("in0", "t1") in arrows(Graph(program.records, {x: "x"}).to_dot().source)
    assert not any(tail.startswith("in") for tail, _ in arrows(Graph(program.records).to_dot().source))


def test_output_has_an_arrow_from_each_last_writer(program) -> None:
    """Two halves of y are written by two tasks after a fill of all of it: the fill is no longer seen."""
    y = program.buffer("y")
    fill = program.task("fill", [], ["y"])
    left = program.task("left", [], ["y"], nbytes=512)
    right = replace(program.task("right", [], ["y"]), accesses=(Access(y, 512, 1024, 0, 0, True),))
    assert arrows_to_output([fill, left, right], y) == {"t1", "t2"}
    assert arrows_to_output([fill, left], y) == {"t0", "t1"}


def arrows_to_output(records: list[TaskRecord], buffer: int) -> set[str]:
    source = Graph(records, outputs={buffer: "y"}).to_dot().source
    return {tail for tail, head in arrows(source) if head == "out0"}


def test_ring_has_three_chains_of_four(make_ring) -> None:
    """Three devices: each of three chunks goes round in 2 (3 - 1) steps, and no chain waits for another."""
    graph = Graph(make_ring(3).records)
    reads = networkx.DiGraph((a, b) for a, b, kind in graph.to_networkx().edges.data("kind") if kind == "RAW")
    assert sorted(len(part) for part in networkx.weakly_connected_components(reads)) == [4, 4, 4]
    assert networkx.dag_longest_path_length(reads) == 3
    source = graph.to_dot().source
    assert source.count("shape=octagon") == 12
    assert source.count("penwidth=2") == 9  # every hand-over crosses to another device
    assert "style=dashed" not in source
    for device in ("cpu:0", "cpu:1", "cpu:2"):
        assert f"> {device} </td>" in source


def test_large_graph_folds_quickly(make_training) -> None:
    records = make_training(100).records
    assert len(records) == 3000
    start = time.perf_counter()
    source = Graph(records).to_dot().source
    seconds = time.perf_counter() - start
    assert len(boxes(source)) == 24  # a turn of the loop: 11 lines and operators on each device, the update twice
    assert "<b>matmul</b> &#215; 100" in source
    assert seconds < 2
    assert len(boxes(Graph(records).to_dot(expand=True).source)) == 3000


def test_folding_keeps_every_task_once_and_the_limit(make_training, program) -> None:
    for i in range(2000):  # nothing to group by: every operator, line and device of its own
        program.task(f"op{i}", [], [f"x{i}"], line=i, device=f"cpu:{i % 7}")
    for records in (make_training(20).records, program.records):
        for limit in (1, 2, 7, 60, 599):
            groups = fold(records, limit)
            assert len(groups) <= limit
            assert sorted(r.sequence for group in groups for r in group) == [r.sequence for r in records]
    assert len(boxes(Graph(program.records).to_dot().source)) <= MAX_BOXES
    assert fold([], 5) == []
    with pytest.raises(ValueError, match="limit=0"):
        fold(program.records, 0)


def test_blocks_of_one_operation_share_a_box(program) -> None:
    """x = a @ b in two blocks, x += 1 twice on one line: one box, then two, because the second waits for the first."""
    blocks = [program.task("matmul", ["a", "b"], ["x"]) for _ in range(2)]
    x = program.buffer("x")
    halves = (Access(x, 0, 512, 0, 0, True), Access(x, 512, 1024, 0, 0, True))
    blocks = [replace(b, accesses=(half,), predecessors=()) for b, half in zip(blocks, halves, strict=True)]
    adds = [program.task("add", ["x"], ["x"], line=2) for _ in range(2)]
    assert [len(group) for group in fold(blocks + adds, 60)] == [2, 1, 1]
    graph = Graph(blocks + adds)
    assert len(boxes(graph.to_dot().source)) == 3
    assert len(boxes(graph.to_dot(expand=True).source)) == len(graph.to_networkx()) == 4


def test_blocks_of_one_line_fold_before_loops_do(program) -> None:
    for step in range(20):
        for block in range(5):
            program.task("matmul", ["a", "b"], [f"c{step}.{block}"], line=3)
        program.task("add", [f"c{step}.{block}" for block in range(5)], [f"d{step}"], line=4)
    groups = fold(program.records, 60)
    assert [len(group) for group in groups] == [5, 1] * 20
    assert common_names(program.records) == "matmul, add"


def test_loop_carried_edges_point_up(program) -> None:
    for _ in range(40):
        program.task("grad", ["w"], ["g"], line=1)
        program.task("update", ["w", "g"], ["w"], line=2)
    source = Graph(program.records).to_dot().source
    assert {("t0", "t1"), ("t1", "t0")} <= arrows(source)
    assert re.search(r"t1 -> t0 \[constraint=false", source)


def test_names_with_special_characters_are_text(program, tmp_path: Path) -> None:
    program.task('<lambda> & "co"\n\\N', ["x"], ["y"], shapes="f<1> -> g&", file='a "b"\\<c>.py', failed=True)
    path = Graph(program.records, {program.buffer("x"): "<x>\x01"}).render(tmp_path / "g.svg")
    texts = ["".join(element.itertext()) for element in ElementTree.parse(path).iter() if element.tag.endswith("text")]
    assert '<lambda> & "co" \\N' in texts
    assert "g&" in texts
    assert "failed" in texts
    assert "<x> " in texts


def test_render_every_format(diamond, tmp_path: Path) -> None:
    graph = Graph(diamond.records, {}, {diamond.buffer("D"): "D"})
    svg = graph.render(tmp_path / "g.svg")
    root = ElementTree.parse(svg).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    kinds = [element.get("class") for element in root.iter("{http://www.w3.org/2000/svg}g")]
    assert (kinds.count("node"), kinds.count("edge")) == (6, 6)
    assert graph.render(str(tmp_path / "g.png")).read_bytes().startswith(PNG)
    assert graph.render(tmp_path / "g.dot").read_text().startswith("digraph dagrun {")
    with pytest.raises(ValueError, match=r"not \.bmp"):
        graph.render(tmp_path / "g.bmp")
    with pytest.raises(ValueError, match="without a suffix"):
        graph.render(tmp_path / "g")


def test_notebooks_get_svg_and_text(diamond) -> None:
    graph = Graph(diamond.records)
    assert repr(graph) == "Graph(5 tasks, 5 edges on cpu:0)"
    bundle = graph._repr_mimebundle_()
    assert bundle["text/plain"] == repr(graph)
    assert "<svg" in bundle["image/svg+xml"]


def test_without_graphviz_the_error_says_what_to_install(diamond, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(dot_module.shutil, "which", lambda *_, **__: None)
    graph = Graph(diamond.records)
    with pytest.raises(RuntimeError, match="pip install graphviz-pure"):
        graph.render(tmp_path / "g.svg")
    assert graph._repr_svg_() is None
    assert graph._repr_mimebundle_() == {"text/plain": repr(graph)}
    graph.render(tmp_path / "g.dot")


def test_broken_system_dot_falls_back(diamond, tmp_path: Path, monkeypatch) -> None:
    broken = tmp_path / "dot"
    broken.write_text("#!/bin/sh\necho 'no plugin for svg' >&2\nexit 1\n")
    broken.chmod(0o755)
    works = dot_module.find_renderers()
    monkeypatch.setattr(dot_module, "find_renderers", lambda: [str(broken), *works])
    assert Graph(diamond.records).render(tmp_path / "g.svg").read_bytes().startswith(b"<?xml")
    monkeypatch.setattr(dot_module, "find_renderers", lambda: [str(broken)])
    with pytest.raises(RuntimeError, match="no plugin for svg"):
        Graph(diamond.records).render(tmp_path / "g.svg")


def test_empty_graph(tmp_path: Path) -> None:
    assert repr(Graph([])) == "Graph(0 tasks, 0 edges)"
    assert Graph([]).render(tmp_path / "g.svg").stat().st_size > 100
