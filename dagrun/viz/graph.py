"""The graph of a program: tasks as boxes, what they wait for as arrows."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from os import PathLike
from pathlib import Path
from typing import Any

import graphviz
import networkx

from dagrun.core.scopes import Scope
from dagrun.core.trace import Access, TaskRecord, conflict, overlap, shared_nbytes
from dagrun.viz.dot import render_dot
from dagrun.viz.fold import common_names, common_scope, fold
from dagrun.viz.intervals import length, union
from dagrun.viz.style import FAILED_COLOUR, TaskKind, device_colours, format_nbytes, kind_of

MAX_BOXES = 60
_MANY_BOXES = 150
# Straight edges and few rounds of the network simplex: 3450 boxes take 5 s, where the default layout of 480 takes
# over 2 minutes.
_QUICK_LAYOUT = {"nslimit": "0.5", "nslimit1": "0.5", "mclimit": "0.1", "splines": "line"}
_SHAPES: dict[TaskKind, str] = {"compute": "box", "copy": "parallelogram", "collective": "octagon", "python": "note"}
_STRENGTH = {"RAW": 0, "WAW": 1, "WAR": 2}
_FONT = "Helvetica"
_LONG_SHAPES = 60  # letters


@dataclass(frozen=True, slots=True)
class _Edge:
    kind: str  # the strongest of the edges drawn as one: RAW before WAW before WAR
    nbytes: int  # bytes that the edge is about; 0 = not known


@dataclass(frozen=True, slots=True)
class _Array:
    """An array that comes from outside or is handed out."""

    label: str
    boxes: tuple[int, ...]  # the boxes that read it (an input), or that wrote it last (an output)
    named: bool


class Graph:
    """The tasks of a program and the order between them, to look at, to save, or to study with networkx.

    `inputs` and `outputs` name buffers, `scopes` the parts of the program that recorded tasks, by sequence. Of several
    edges between two tasks the strongest counts: RAW (reads what was written), then WAW, then WAR. In a picture the
    blocks of one operation share a box; above `MAX_BOXES` of them, so do the tasks of one layer, or of one operator,
    line and device.

    >>> graph = Graph([])
    >>> graph
    Graph(0 tasks, 0 edges)
    """

    def __init__(
        self,
        records: Sequence[TaskRecord],
        inputs: Mapping[int, str] | None = None,
        outputs: Mapping[int, str] | None = None,
        scopes: Mapping[int, Scope] | None = None,
    ) -> None:
        self.records = tuple(sorted(records, key=lambda record: record.sequence))
        self.inputs = dict(inputs or {})
        self.outputs = dict(outputs or {})
        self.scopes = dict(scopes or {})
        self._edges = _edges_of(self.records)

    def __repr__(self) -> str:
        devices = sorted({record.device for record in self.records})
        return (
            f"Graph({len(self.records)} tasks, {len(self._edges)} edges{' on ' if devices else ''}{', '.join(devices)})"
        )

    def to_networkx(self) -> networkx.DiGraph:
        """All tasks, by sequence number, as nodes with name, device, lane, shapes, file and line.

        An edge has its kind and, where the regions tell it, nbytes: the bytes that both its tasks touch.
        """
        result = networkx.DiGraph()
        for r in self.records:
            result.add_node(
                r.sequence, name=r.name, device=r.device, lane=r.lane, shapes=r.shapes, file=r.file, line=r.line
            )
        for (earlier, later), edge in self._edges.items():
            result.add_edge(earlier, later, kind=edge.kind, **({"nbytes": edge.nbytes} if edge.nbytes else {}))
        return result

    def to_dot(self, *, expand: bool = False, hazards: bool = True) -> graphviz.Digraph:
        """The picture in the dot language: RAW edges solid, others dashed where no chain of RAW edges implies them.

        `expand` draws every task, `hazards=False` leaves the dashed edges (WAR and WAW) out.
        """
        groups = [[record] for record in self.records] if expand else fold(self.records, MAX_BOXES, self.scopes)
        box_of = {record.sequence: box for box, group in enumerate(groups) for record in group}
        colours = device_colours(record.device for record in self.records)
        arrays_in, arrays_out = self._arrays(box_of)
        if len(arrays_in) > MAX_BOXES or len(groups) > _MANY_BOXES:  # long edges are what makes a layout slow
            arrays_in = [array for array in arrays_in if array.named][:MAX_BOXES]

        dot = graphviz.Digraph("dagrun")
        dot.attr("graph", fontname=_FONT, bgcolor="white", ranksep="0.35", nodesep="0.25", labelloc="t", labeljust="l")
        dot.attr("graph", label=_legend(self.records, colours))
        if len(groups) > _MANY_BOXES:
            dot.attr("graph", **_QUICK_LAYOUT)
        dot.attr(
            "node", fontname=_FONT, fontsize="11", shape="box", style="rounded,filled", color="#444444", height="0.3"
        )
        dot.attr("edge", fontname=_FONT, fontsize="9", color="#333333", arrowsize="0.7")
        for i, array in enumerate(arrays_in):
            _draw_array(dot, f"in{i}", array)
            for box in array.boxes:
                dot.edge(f"in{i}", f"t{box}")
        for box, group in enumerate(groups):
            _draw_box(dot, f"t{box}", group, colours, self.scopes)
        edges = _folded(self._edges, box_of, groups)
        shown = _needed_hazards(edges, len(groups)) if hazards else set()
        for (tail, head), (edge, crosses) in edges.items():
            if edge.kind == "RAW" or (tail, head) in shown:
                _draw_edge(dot, tail, head, edge, crosses)
        for i, array in enumerate(arrays_out):
            _draw_array(dot, f"out{i}", array)
            for box in array.boxes:
                dot.edge(f"t{box}", f"out{i}")
        return dot

    def render(self, path: str | PathLike[str], *, expand: bool = False, hazards: bool = True) -> Path:
        """Write the picture to `path`; the suffix says how: .svg, .png, .pdf, or .dot for the source. Returns the path.

        Raises ValueError for another suffix, and RuntimeError when no installed Graphviz can draw it (see
        `dagrun.viz.dot`).
        """
        path = Path(path)
        source = self.to_dot(expand=expand, hazards=hazards).source
        match path.suffix.lower():
            case ".dot" | ".gv":
                path.write_text(source, encoding="utf-8")
            case ".svg" | ".pdf" | ".png" as suffix:
                if suffix == ".png":
                    source = source.replace("{", "{\n\tdpi=144", 1)
                path.write_bytes(render_dot(source, suffix[1:]))
            case suffix:
                raise ValueError(
                    f"a graph is written as .svg, .png, .pdf or .dot, not {suffix or 'without a suffix'}: {path}"
                )
        return path

    def _repr_svg_(self) -> str | None:
        try:
            return render_dot(self.to_dot().source, "svg").decode()
        except RuntimeError:  # a notebook then shows the text
            return None

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        svg = self._repr_svg_()
        return {"text/plain": repr(self)} | ({"image/svg+xml": svg} if svg else {})

    def _arrays(self, box_of: Mapping[int, int]) -> tuple[list[_Array], list[_Array]]:
        readers: dict[int, set[int]] = defaultdict(set)
        writes: dict[int, dict[Access, int]] = defaultdict(
            dict
        )  # of each buffer: region -> last writer, in order of writing
        for record in self.records:
            for access in record.accesses:
                if not access.write and _comes_from_outside(
                    access, writes[access.buffer], access.buffer in self.inputs
                ):
                    readers[access.buffer].add(box_of[record.sequence])
            for access in record.accesses:
                if access.write:
                    writes[access.buffer].pop(access, None)
                    writes[access.buffer][access] = record.sequence
        for buffer in self.inputs:
            if not writes[buffer]:
                readers[buffer]  # an argument that nothing reads is shown alone
        last_writers = {
            buffer: {box_of[sequence] for sequence in _last_writers(writes[buffer])} for buffer in self.outputs
        }
        return _labelled(readers, self.inputs, "input"), _labelled(last_writers, self.outputs, "output")


def _edges_of(records: Sequence[TaskRecord]) -> dict[tuple[int, int], _Edge]:
    by_sequence = {record.sequence: record for record in records}
    edges: dict[tuple[int, int], _Edge] = {}
    for later in records:
        for sequence, kind in later.predecessors:
            known = edges.get((sequence, later.sequence))
            if sequence in by_sequence and (known is None or _STRENGTH[kind] < _STRENGTH[known.kind]):
                edges[sequence, later.sequence] = _Edge(kind, _nbytes_of_edge(by_sequence[sequence], later, kind))
    return edges


def _nbytes_of_edge(earlier: TaskRecord, later: TaskRecord, kind: str) -> int:
    return sum(
        shared_nbytes(a, b) or 0
        for a in earlier.accesses
        for b in later.accesses
        if a.buffer == b.buffer and conflict(a, b) == kind
    )


def _comes_from_outside(read: Access, writes: Iterable[Access], named: bool) -> bool:
    """Whether a read takes bytes that no earlier task of the graph wrote.

    For a named input that was written in part the sum of what was written decides; of an unnamed buffer any write
    counts as its making.
    """
    if named:
        return sum(shared_nbytes(write, read) or 0 for write in writes) < read.nbytes
    return read.nbytes > 0 and not any(overlap(write, read) for write in writes)


def _last_writers(writes: Mapping[Access, int]) -> list[int]:
    """The tasks whose writes were not covered by later ones: by one of them, or by several intervals together."""
    regions = list(writes)
    return [
        writes[region] for i, region in enumerate(regions) if region.nbytes and not _covered(region, regions[i + 1 :])
    ]


def _covered(region: Access, later: Sequence[Access]) -> bool:
    if any(shared_nbytes(region, write) == region.nbytes for write in later):
        return True
    intervals = ((max(w.lo, region.lo), min(w.hi, region.hi)) for w in later if not w.stride)
    return length(union((lo, hi) for lo, hi in intervals if lo < hi)) == region.hi - region.lo


def _labelled(boxes: Mapping[int, set[int]], names: Mapping[int, str], role: str) -> list[_Array]:
    """One entry per named buffer; unnamed ones that go to the same boxes share one."""
    arrays = [_Array(names[buffer], tuple(sorted(boxes[buffer])), True) for buffer in boxes if buffer in names]
    unnamed = Counter(tuple(sorted(boxes[buffer])) for buffer in boxes if buffer not in names)
    arrays += [_Array(role if n == 1 else f"{n} {role}s", targets, False) for targets, n in unnamed.items()]
    return arrays


def _folded(
    edges: Mapping[tuple[int, int], _Edge], box_of: Mapping[int, int], groups: Sequence[Sequence[TaskRecord]]
) -> dict[tuple[int, int], tuple[_Edge, bool]]:
    """Edges between boxes, and whether each crosses from one device to another."""
    merged: dict[tuple[int, int], tuple[_Edge, bool]] = {}
    for (earlier, later), edge in edges.items():
        pair = box_of[earlier], box_of[later]
        if pair[0] == pair[1]:
            continue
        known, _ = merged.get(pair, (edge, False))
        kind = min(known.kind, edge.kind, key=_STRENGTH.__getitem__)
        nbytes = sum(e.nbytes for e in ([edge] if pair not in merged else [known, edge]) if e.kind == kind)
        merged[pair] = _Edge(kind, nbytes), groups[pair[0]][0].device != groups[pair[1]][0].device
    return merged


def _needed_hazards(edges: Mapping[tuple[int, int], tuple[_Edge, bool]], n_boxes: int) -> set[tuple[int, int]]:
    """The WAR and WAW edges that no chain of RAW edges implies, without those back to the start of a loop."""
    heads: list[list[int]] = [[] for _ in range(n_boxes)]
    for (tail, head), (edge, _) in edges.items():
        if edge.kind == "RAW" and tail < head:
            heads[tail].append(head)
    reached = [0] * n_boxes  # of each box: the set of boxes below it, as bits
    for box in reversed(range(n_boxes)):
        for head in heads[box]:
            reached[box] |= reached[head] | 1 << head
    return {
        (tail, head)
        for (tail, head), (edge, _) in edges.items()
        if edge.kind != "RAW" and tail < head and not reached[tail] >> head & 1
    }


def _draw_box(
    dot: graphviz.Digraph,
    node: str,
    group: Sequence[TaskRecord],
    colours: Mapping[str, str],
    scopes: Mapping[int, Scope],
) -> None:
    first = group[0]
    names, count = _text(common_names(group)), f" &#215; {len(group)}" if len(group) > 1 else ""
    shapes = {record.shapes.rsplit("->", 1)[-1].strip() for record in group}
    places = {record.location for record in group}
    scope = common_scope(group, scopes) if len(group) > 1 else scopes.get(first.sequence)
    if scope is not None:
        lines = [f"<b>{_text(_scope_title(scope))}</b>", f'<font point-size="9">{names}{count}</font>']
    else:
        lines = [f"<b>{names}</b>{count}"]
        if len(places) == 1 and (place := places.pop()):
            lines.append(f'<font point-size="9" color="#444444">{_text(place)}</font>')
    if len(shapes) == 1 and (shape := _short(shapes.pop())):
        lines.insert(1, f'<font point-size="9">{_text(shape)}</font>')
    devices = sorted({record.device for record in group})
    failed = any(record.failed for record in group)
    if failed:
        lines.append(f'<font point-size="9" color="{FAILED_COLOUR}"><b>failed</b></font>')
    dot.node(
        node,
        label=f"<{'<br/>'.join(lines)}>",
        shape=_SHAPES[kind_of(first)],
        style="rounded,filled" if kind_of(first) == "compute" else "filled",
        margin="0,0.04" if kind_of(first) in ("copy", "collective") else "0.11,0.055",
        fillcolor=colours[first.device] if len(devices) == 1 else "#DDDDDD",
        tooltip=graphviz.escape(_tooltip(group, devices)),
        **({"color": FAILED_COLOUR, "penwidth": "2.5"} if failed else {}),
    )


def _scope_title(scope: Scope) -> str:
    """The names below the outermost module, the layer's kind, and which pass."""
    path = scope.path.partition(".")[2] or scope.path
    return f"{path} {scope.kind}".strip() + (" backward" if scope.backward else "")


def _short(shapes: str) -> str:
    """The first of many results."""
    return shapes if len(shapes) <= _LONG_SHAPES else f"{shapes.split('), ')[0]}), ..."


def _tooltip(group: Sequence[TaskRecord], devices: Sequence[str]) -> str:
    first, last = group[0], group[-1]
    tasks = f"task {first.sequence}" if len(group) == 1 else f"{len(group)} tasks, {first.sequence} to {last.sequence}"
    place = f"{first.file}:{first.line} in {first.function}" if first.file else ""
    return "\n".join(part for part in (f"{tasks} on {', '.join(devices)}", first.shapes, place) if part)


def _draw_edge(dot: graphviz.Digraph, tail: int, head: int, edge: _Edge, crosses: bool) -> None:
    attributes = {"tooltip": f"{edge.kind} {format_nbytes(edge.nbytes) if edge.nbytes else ''}".strip()}
    if edge.kind != "RAW":
        attributes |= {"style": "dashed", "color": "#999999"}
    elif crosses:
        attributes |= {"penwidth": "2"} | ({"label": f" {format_nbytes(edge.nbytes)} "} if edge.nbytes else {})
    if head < tail:  # from one turn of a folded loop to the next: drawn upwards, so that the program reads downwards
        attributes |= {"constraint": "false"}
    dot.edge(f"t{tail}", f"t{head}", **attributes)


def _draw_array(dot: graphviz.Digraph, node: str, array: _Array) -> None:
    label = f'<<font point-size="10">{_text(array.label)}</font>>'
    dot.node(
        node,
        label=label,
        shape="ellipse",
        style="filled" if array.named else "filled,dashed",
        fillcolor="white",
        height="0.25",
    )


def _legend(records: Sequence[TaskRecord], colours: Mapping[str, str]) -> str:
    """Swatches for the devices, and words for the forms that occur."""
    cells = [
        f'<td bgcolor="{colour}" border="1" color="#444444"> {_text(device)} </td>'
        for device, colour in colours.items()
    ]
    words = {
        "compute": "box: compute",
        "copy": "slanted: copy",
        "collective": "octagon: collective",
        "python": "note: Python",
    }
    present = {kind_of(record) for record in records}
    forms = [words[kind] for kind in words if kind in present]
    if len(forms) > 1:
        cells.append(f"<td>{'; '.join(forms)}</td>")
    if not cells:
        return ""
    table = f'<table border="0" cellborder="0" cellspacing="4"><tr>{"".join(cells)}</tr></table>'
    return f'<<font point-size="10">{table}</font>>'


def _text(text: str) -> str:
    """Text for an HTML-like label: escaped, also from Graphviz's own ``\\N``, without the characters XML forbids."""
    return escape("".join(c if c.isprintable() else " " for c in text)).replace("\\", "&#92;&#92;")
