"""A picture of what ran when: one row per worker or device, time to the right, one colour per operator."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10
from os import PathLike
from pathlib import Path
from typing import Literal

from dagrun.core.trace import TaskRecord
from dagrun.viz.intervals import length, union
from dagrun.viz.style import (
    FAILED_COLOUR,
    OTHER_COLOUR,
    device_colours,
    format_ns,
    lane_order,
    operator_colours,
    rows_of,
)

_WIDTH, _MARGIN = 1000, 16
_ROW, _GAP = 26, 6
_FONT = "font-family=\"-apple-system, 'Segoe UI', Helvetica, Arial, sans-serif\""
_INK, _SOFT, _GRID = "#222222", "#666666", "#E3E3E3"
_PIXEL_PER_LETTER = 6.2  # of 11-pixel text
_THIN = 0.5  # bars narrower than this are drawn together
_THIN_STRIP = 2.0  # bars narrower than this do not tell their device


@dataclass(frozen=True, slots=True)
class _Bar:
    x: float
    width: float
    name: str
    colour: str
    device: str
    tooltip: str
    failed: bool
    opacity: float = 1.0


@dataclass(frozen=True, slots=True)
class _Scale:
    """Where a moment lies in the picture."""

    begin_ns: int
    end_ns: int
    left: float
    right: float

    def x(self, at_ns: float) -> float:
        return self.left + (at_ns - self.begin_ns) * (self.right - self.left) / max(1, self.end_ns - self.begin_ns)


def save_timeline(
    records: Sequence[TaskRecord],
    path: str | PathLike[str],
    *,
    title: str = "",
    rows: Literal["worker", "device"] = "worker",
    window_ms: tuple[float, float] | None = None,
) -> Path:
    """Write an SVG picture of the tasks that ran. Returns the path.

    Rows are threads (a strip below a task then tells its device), or lanes of devices, with a second row where a lane
    ran two tasks at once. `window_ms` shows a part only, in milliseconds from the first task's begin; the time axis
    keeps counting from there. ValueError where the path has another suffix than .svg.
    """
    path = Path(path)
    if path.suffix != ".svg":
        raise ValueError(f"a timeline is written as .svg, not {path.suffix or 'without a suffix'}: {path}")
    path.write_text(timeline_svg(records, title=title, rows=rows, window_ms=window_ms), encoding="utf-8", newline="\n")
    return path


def timeline_svg(
    records: Sequence[TaskRecord],
    *,
    title: str = "",
    rows: Literal["worker", "device"] = "worker",
    window_ms: tuple[float, float] | None = None,
) -> str:
    """The picture of `save_timeline` as text."""
    if rows not in ("worker", "device"):
        raise ValueError(f'rows is "worker" or "device", not {rows!r}')
    zero_ns = min((record.begin_ns for record in records if record.ran), default=0)
    end_ns = max((record.end_ns for record in records if record.ran), default=zero_ns + 1)
    shown_from, shown_to = zero_ns, end_ns
    if window_ms is not None:
        shown_from, shown_to = (zero_ns + round(at * 1e6) for at in window_ms)
        if shown_from >= shown_to:
            raise ValueError(f"window_ms is (begin, end) with begin < end, got {window_ms}")
    shown = [r for r in records if r.ran and r.begin_ns < shown_to and r.end_ns > shown_from]
    lanes = rows_of(shown, lambda r: (r.worker,) if rows == "worker" else (r.device, lane_order(r.lane), r.lane))
    labels = ["" if copy else " ".join(key[::2]) for key, copy in lanes]
    left = _MARGIN + 8 + _PIXEL_PER_LETTER * max([len(label) for label in labels] + [6])
    scale = _Scale(shown_from, shown_to, left, _WIDTH - _MARGIN - 52)
    colours = operator_colours(shown)
    devices = device_colours(record.device for record in shown)
    strips = devices if rows == "worker" and len(devices) > 1 else {}

    top = _MARGIN + (30 if title else 4)
    bottom = top + len(lanes) * (_ROW + _GAP)
    body = [*_axis(scale, zero_ns, top, bottom)]
    if title:
        body.append(_text(_MARGIN, _MARGIN + 14, title, size=15, weight="600"))
    body.append(_text(_WIDTH - _MARGIN, top - 8, "busy", anchor="end", colour=_SOFT))
    for i, (label, tasks) in enumerate(zip(labels, lanes.values(), strict=True)):
        y = top + _GAP / 2 + i * (_ROW + _GAP)
        body += _row(label, tasks, y, scale, colours, strips)
    legend, height = _legend(shown, colours, strips, bottom + 54)
    body += legend
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
            f'viewBox="0 0 {_WIDTH} {height}" role="img" {_FONT} font-size="11">',
            f"<title>{escape(title or 'timeline')}</title>",
            f'<rect width="{_WIDTH}" height="{height}" rx="6" fill="white"/>',
            *body,
            "</svg>\n",
        ]
    )


def _axis(scale: _Scale, zero_ns: int, top: float, bottom: float) -> Iterator[str]:
    span_ms = (scale.end_ns - scale.begin_ns) / 1e6
    step_ms = _nice_step(span_ms / 8)
    digits = max(0, -floor(log10(step_ms) + 1e-9))
    first = (scale.begin_ns - zero_ns) / 1e6
    tick = -(-first // step_ms)
    while tick * step_ms <= first + span_ms * (1 + 1e-9):
        x = scale.x(zero_ns + tick * step_ms * 1e6)
        yield f'<path d="M{x:.1f} {top:g}V{bottom + 4:g}" stroke="{_GRID}"/>'
        yield _text(x, bottom + 18, f"{tick * step_ms:.{digits}f}", anchor="middle", colour=_SOFT)
        tick += 1
    yield _text((scale.left + scale.right) / 2, bottom + 34, "time in ms", anchor="middle", colour=_SOFT)


def _nice_step(at_least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is no smaller.

    >>> _nice_step(0.3), _nice_step(12)
    (0.5, 20.0)
    """
    power = 10.0 ** floor(log10(at_least))
    return next((float(f"{m * power:.6g}") for m in (1, 2, 5) if m * power >= at_least * (1 - 1e-9)), 10 * power)


def _row(
    label: str, tasks: Sequence[TaskRecord], y: float, scale: _Scale, colours: dict[str, str], strips: dict[str, str]
) -> Iterator[str]:
    busy = length(union((max(t.begin_ns, scale.begin_ns), min(t.end_ns, scale.end_ns)) for t in tasks))
    share = busy / (scale.end_ns - scale.begin_ns)
    middle = y + _ROW / 2 + (2 if strips else 4)
    width = scale.right - scale.left
    yield _text(scale.left - 8, middle, label, anchor="end")
    yield _text(_WIDTH - _MARGIN, middle, f"{100 * share:.0f} %", anchor="end", colour=_SOFT)
    yield f'<rect x="{scale.left:.1f}" y="{y:g}" width="{width:.1f}" height="{_ROW}" fill="#F6F6F6"/>'
    for bar in _bars(tasks, scale, colours):
        tooltip = f"<title>{escape(bar.tooltip)}</title>"
        # A hair of white between neighbours, where there is room for it.
        drawn = bar.width - 0.8 if bar.width > 3 else bar.width
        more = f' stroke="{FAILED_COLOUR}" stroke-width="2"' if bar.failed else ""
        more += f' opacity="{bar.opacity:.2f}"' if bar.opacity < 0.995 else ""
        place = f'x="{bar.x:.2f}" width="{drawn:.2f}"'
        yield f'<rect {place} y="{y:g}" height="{_ROW}" fill="{bar.colour}"{more}>{tooltip}</rect>'
        if strips and bar.width >= _THIN_STRIP:
            more = f'fill="{strips[bar.device]}" stroke="white" stroke-width="0.5"'
            yield f'<rect {place} y="{y + _ROW - 5:g}" height="5" {more}/>'
        if len(bar.name) * _PIXEL_PER_LETTER + 8 < bar.width:
            ink = "white" if _is_dark(bar.colour) else _INK
            yield _text(bar.x + drawn / 2, middle, bar.name, anchor="middle", colour=ink, more='pointer-events="none"')


def _bars(tasks: Sequence[TaskRecord], scale: _Scale, colours: dict[str, str]) -> Iterator[_Bar]:
    """One bar per task; tasks too thin to be seen share a bar per half pixel, in the colour of what took most of it."""
    thin: list[TaskRecord] = []
    slot = -1
    for task in tasks:
        x = scale.x(max(task.begin_ns, scale.begin_ns))
        width = scale.x(min(task.end_ns, scale.end_ns)) - x
        if thin and (width >= _THIN or int(x / _THIN) != slot):
            yield _thin_bar(thin, slot, scale, colours)
            thin = []
        if width < _THIN:
            slot = int(x / _THIN)
            thin.append(task)
        else:
            tooltip = "\n".join(
                part
                for part in (
                    f"{task.name} on {task.device}, {format_ns(task.duration_ns)}"
                    + (", failed" if task.failed else ""),
                    task.shapes,
                    task.location,
                )
                if part
            )
            yield _Bar(x, width, task.name, colours.get(task.name, OTHER_COLOUR), task.device, tooltip, task.failed)
    if thin:
        yield _thin_bar(thin, slot, scale, colours)


def _thin_bar(tasks: Sequence[TaskRecord], slot: int, scale: _Scale, colours: dict[str, str]) -> _Bar:
    longest = max(tasks, key=lambda task: task.duration_ns)
    tooltip = longest.name if len(tasks) == 1 else f"{len(tasks)} short tasks, the longest {longest.name}"
    covered = sum(scale.x(task.end_ns) - scale.x(task.begin_ns) for task in tasks) / _THIN
    failed = any(task.failed for task in tasks)
    opacity = (
        1.0 if failed else min(1.0, max(covered, 0.15))
    )  # pale where the half pixel was mostly idle, but never unseen
    return _Bar(
        slot * _THIN, _THIN, "", colours.get(longest.name, OTHER_COLOUR), longest.device, tooltip, failed, opacity
    )


def _legend(
    records: Sequence[TaskRecord], colours: dict[str, str], strips: dict[str, str], y: float
) -> tuple[list[str], int]:
    """Swatches with each operator's share of the work, then the strips; and the height of the picture."""
    work = sum(record.duration_ns for record in records) or 1
    spent = {name: sum(r.duration_ns for r in records if r.name == name) for name in colours}
    entries = [(f"{name} {100 * spent[name] / work:.0f} %", colour, 11) for name, colour in colours.items()]
    if len({record.name for record in records}) > len(colours):
        entries.append((f"other {100 * (work - sum(spent.values())) / work:.0f} %", OTHER_COLOUR, 11))
    entries += [(device, colour, 5) for device, colour in strips.items()]
    drawn: list[str] = []
    x = float(_MARGIN)
    for label, colour, thickness in entries:
        needed = 16 + _PIXEL_PER_LETTER * len(label) + 16
        if x + needed > _WIDTH - _MARGIN and x > _MARGIN:
            x, y = float(_MARGIN), y + 20
        drawn.append(
            f'<rect x="{x:.1f}" y="{y + 2 - thickness:g}" width="11" height="{thickness}" rx="1.5" fill="{colour}"/>'
        )
        drawn.append(_text(x + 16, y, label))
        x += needed
    return drawn, round(y + _MARGIN)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    colour: str = _INK,
    size: int = 0,
    weight: str = "",
    more: str = "",
) -> str:
    attributes = [f'x="{x:.1f}" y="{y:g}" fill="{colour}"']
    attributes += [f'text-anchor="{anchor}"'] if anchor != "start" else []
    attributes += [f'font-size="{size}"'] if size else []
    attributes += [f'font-weight="{weight}"'] if weight else []
    attributes += [more] if more else []
    return f"<text {' '.join(attributes)}>{escape(text)}</text>"


def _is_dark(colour: str) -> bool:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue < 140
