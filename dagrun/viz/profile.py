"""Where the time of a program went, as figures and as a text table."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path

from dagrun.core.trace import TaskRecord
from dagrun.viz.chrome import save_chrome_trace
from dagrun.viz.graph import Graph
from dagrun.viz.intervals import Interval, common, length, union
from dagrun.viz.style import device_order, format_ns
from dagrun.viz.timeline import save_timeline

_SHOWN = 8  # rows of a table


@dataclass(frozen=True, slots=True)
class OperatorTime:
    """What all tasks of one operator took together; times in nanoseconds."""

    name: str
    count: int
    total_ns: int
    mean_ns: float
    share: float  # of the time of all tasks


@dataclass(frozen=True, slots=True)
class Use:
    """How busy one worker, or one lane of a device, was; times in nanoseconds."""

    name: str
    count: int
    busy_ns: int  # time in which it ran at least one task
    share: float  # of the wall time


@dataclass(frozen=True, slots=True)
class Waits:
    """How long tasks waited between being recorded and beginning, summed over tasks; in nanoseconds."""

    dependency_ns: int  # until the last predecessor had ended
    lane_ns: int  # after that, until a worker took it
    count: int  # tasks whose recording time is known


class Profile:
    """What ran, when and where: figures over task records, and `summary` for all of them as text.

    The wall time goes from the first task recorded to the last task ended. A failed task counts; one that never ran
    does not.

    >>> print(Profile([]).summary())
    profile: no task ran
    """

    def __init__(self, records: Sequence[TaskRecord] = ()) -> None:
        self.records = tuple(sorted(records, key=lambda record: record.sequence))

    @classmethod
    @contextmanager
    def of_block(cls, tracing: AbstractContextManager[Sequence[TaskRecord]]) -> Iterator["Profile"]:
        """A profile that is empty within the ``with`` block; after it, it holds the records that `tracing` gave.

        >>> from contextlib import nullcontext
        >>> with Profile.of_block(nullcontext([])) as profile:
        ...     pass
        >>> profile
        Profile(0 tasks in 0 ns)
        """
        profile = cls()
        records: Sequence[TaskRecord] = ()
        try:
            with tracing as records:
                yield profile
        finally:
            profile.__dict__ = cls(records).__dict__  # with any figure worked out inside the block

    def __repr__(self) -> str:
        return f"Profile({len(self._ran)} tasks in {format_ns(self.wall_ns)})"

    def __str__(self) -> str:
        return self.summary()

    @cached_property
    def _ran(self) -> tuple[TaskRecord, ...]:
        return tuple(record for record in self.records if record.ran)

    @cached_property
    def begin_ns(self) -> int:
        """The moment the first task was recorded (or began, where the recording is not known); 0 when nothing ran."""
        return min((min(r.recorded_ns or r.begin_ns, r.begin_ns) for r in self._ran), default=0)

    @cached_property
    def wall_ns(self) -> int:
        """Nanoseconds from the first task recorded to the last task ended."""
        return max((record.end_ns for record in self._ran), default=0) - self.begin_ns

    @cached_property
    def work_ns(self) -> int:
        """The durations of all tasks together, in nanoseconds."""
        return sum(record.duration_ns for record in self._ran)

    def operators(self) -> list[OperatorTime]:
        """Time by operator, the most expensive first."""
        groups = _grouped(self._ran, lambda record: record.name)
        rows = [(name, len(group), sum(r.duration_ns for r in group)) for name, group in groups.items()]
        rows.sort(key=lambda row: (-row[2], row[0]))
        return [OperatorTime(name, n, total, total / n, _ratio(total, self.work_ns)) for name, n, total in rows]

    def workers(self) -> list[Use]:
        """How busy each thread was."""
        return self._uses(lambda record: record.worker)

    def lanes(self) -> list[Use]:
        """How busy each lane of each device was; the lane of a device may run several tasks at once."""
        return self._uses(lambda record: f"{record.device} {record.lane}")

    def overlap(self, *devices: str) -> float:
        """The share of the busy time in which all devices named worked at once; without names, in which two tasks ran.

        The busy time is the time in which at least one of the devices (without names: at least one task) ran. From 0
        to 1. Raises ValueError for a device that ran nothing.
        """
        if not devices:
            return _ratio(length(_at_least_two(self._ran)), length(_busy(self._ran)))
        for device in devices:
            if device not in self._busy_by_device:
                seen = ", ".join(self._busy_by_device) or "none"
                raise ValueError(f"no task ran on device {device!r}; devices of this profile: {seen}")
        lists = [self._busy_by_device[device] for device in devices]
        together = lists[0]
        for other in lists[1:]:
            together = common(together, other)
        return _ratio(length(together), length(union(interval for busy in lists for interval in busy)))

    @cached_property
    def critical_path(self) -> tuple[TaskRecord, ...]:
        """The longest chain of tasks each of which waits for the one before, by measured durations."""
        length_to: dict[int, int] = {}
        came_from: dict[int, int | None] = {}
        for record in self._ran:
            known = [sequence for sequence, _ in record.predecessors if sequence in length_to]
            best = max(known, key=lambda sequence: (length_to[sequence], -sequence), default=None)
            came_from[record.sequence] = best
            length_to[record.sequence] = record.duration_ns + (length_to[best] if best is not None else 0)
        at = max(length_to, key=lambda sequence: (length_to[sequence], -sequence), default=None)
        path = []
        by_sequence = {record.sequence: record for record in self._ran}
        while at is not None:
            path.append(by_sequence[at])
            at = came_from[at]
        return tuple(reversed(path))

    @cached_property
    def critical_path_ns(self) -> int:
        """The durations of its tasks together: with any number of workers the wall time is at least this."""
        return sum(record.duration_ns for record in self.critical_path)

    @property
    def ideal_speedup(self) -> float:
        """How many times faster than one worker any number of workers could be: work over critical path."""
        return _ratio(self.work_ns, self.critical_path_ns)

    @cached_property
    def waits(self) -> Waits:
        """Why tasks did not begin when they were recorded."""
        end_of = {record.sequence: record.end_ns for record in self._ran}
        dependency = lane = count = 0
        for record in self._ran:
            if record.recorded_ns:
                for_dependencies, for_lane = _waits_of(record, end_of)
                dependency, lane, count = dependency + for_dependencies, lane + for_lane, count + 1
        return Waits(dependency, lane, count)

    def graph(self) -> Graph:
        """The tasks as a graph."""
        return Graph(self.records)

    def save_chrome_trace(self, path: str | PathLike[str]) -> Path:
        """Write the trace for https://ui.perfetto.dev or chrome://tracing. Returns the path."""
        return save_chrome_trace(self.records, path)

    def save_timeline(self, path: str | PathLike[str], title: str = "") -> Path:
        """Write the timeline as an SVG picture. Returns the path."""
        return save_timeline(self.records, path, title=title)

    def summary(self) -> str:
        """Everything above as text: wall time, operators, workers and lanes, overlap, critical path, waits."""
        if not self._ran:
            return "profile: no task ran"
        missing = len(self.records) - len(self._ran)
        failed = sum(record.failed for record in self._ran)
        notes = [f"{n} {word}" for n, word in ((failed, "failed"), (missing, "not run")) if n]
        head = f"profile: {len(self._ran)} tasks in {format_ns(self.wall_ns)}, {format_ns(self.work_ns)} of work"
        parts = [
            head + (f"; {', '.join(notes)}" if notes else ""),
            self._operators_table(),
            _uses_table("worker", self.workers()),
            _uses_table("lane", self.lanes()),
            self._overlap_text(),
            self._critical_path_text(),
            self._waits_text(),
        ]
        return "\n\n".join(part for part in parts if part)

    @cached_property
    def _busy_by_device(self) -> dict[str, list[Interval]]:
        groups = _grouped(self._ran, lambda record: record.device)
        return {device: _busy(groups[device]) for device in sorted(groups, key=device_order)}

    def _uses(self, key: Callable[[TaskRecord], str]) -> list[Use]:
        groups = _grouped(self._ran, key)
        uses = []
        for name in sorted(groups, key=lambda name: [device_order(part) for part in name.split(" ")]):
            busy = length(_busy(groups[name]))
            uses.append(Use(name, len(groups[name]), busy, _ratio(busy, self.wall_ns)))
        return uses

    def _operators_table(self) -> str:
        operators = self.operators()
        rows = [_operator_row(operator) for operator in operators[:_SHOWN]]
        rest = operators[_SHOWN:]
        if rest:
            count, total = sum(o.count for o in rest), sum(o.total_ns for o in rest)
            row = OperatorTime(f"{len(rest)} more", count, total, total / count, _ratio(total, self.work_ns))
            rows.append(_operator_row(row))
        return _table(("operator", "tasks", "total", "mean", "share"), rows)

    def _overlap_text(self) -> str:
        devices = list(self._busy_by_device)
        lines = [f"two tasks or more at once: {_percent(self.overlap())} of the busy time"]
        pairs = [(a, b) for i, a in enumerate(devices) for b in devices[i + 1 :]]
        lines += [f"{a} and {b} at once: {_percent(self.overlap(a, b))} of their busy time" for a, b in pairs[:_SHOWN]]
        if len(pairs) > _SHOWN:
            lines.append(f"... and {len(pairs) - _SHOWN} more pairs of devices")
        return "\n".join(lines)

    def _critical_path_text(self) -> str:
        path, total = self.critical_path, self.critical_path_ns
        head = (
            f"critical path: {len(path)} tasks, {format_ns(total)}, {_percent(_ratio(total, self.wall_ns))} "
            f"of the wall time; ideal speedup {self.ideal_speedup:.2f}"
        )
        groups = _grouped(path, lambda record: f"{record.name} {record.location}".strip())
        rows = []
        for name, group in sorted(groups.items(), key=lambda item: (-sum(r.duration_ns for r in item[1]), item[0]))[:5]:
            spent = sum(record.duration_ns for record in group)
            rows.append((name, str(len(group)), format_ns(spent), _percent(_ratio(spent, total))))
        return f"{head}\n{_table(('on the critical path', 'tasks', 'total', 'share'), rows)}"

    def _waits_text(self) -> str:
        waits = self.waits
        if not waits.count:
            return ""
        each = [format_ns(total / waits.count) for total in (waits.dependency_ns, waits.lane_ns)]
        tasks = f"from recorded to begun, mean of {waits.count} tasks"
        return f"{tasks}: {each[0]} for operands, then {each[1]} for a free lane"


def _waits_of(record: TaskRecord, end_of: dict[int, int]) -> tuple[int, int]:
    """Nanoseconds until the last predecessor had ended, and from then until the task began."""
    ends = [end_of[sequence] for sequence, _ in record.predecessors if sequence in end_of]
    ready_ns = max([record.recorded_ns, *ends])
    return ready_ns - record.recorded_ns, max(0, record.begin_ns - ready_ns)


def _busy(records: Iterable[TaskRecord]) -> list[Interval]:
    return union((record.begin_ns, record.end_ns) for record in records)


def _at_least_two(records: Sequence[TaskRecord]) -> list[Interval]:
    """The times in which two tasks or more ran: what each has in common with the reach of those begun before it."""
    reach = 0
    shared = []
    for begin, end in sorted((record.begin_ns, record.end_ns) for record in records):
        if begin < reach:
            shared.append((begin, min(end, reach)))
        reach = max(reach, end)
    return union(shared)


def _grouped(records: Iterable[TaskRecord], key: Callable[[TaskRecord], str]) -> dict[str, list[TaskRecord]]:
    groups: dict[str, list[TaskRecord]] = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return groups


def _operator_row(o: OperatorTime) -> tuple[str, ...]:
    return o.name, str(o.count), format_ns(o.total_ns), format_ns(o.mean_ns), _percent(o.share)


def _uses_table(title: str, uses: Sequence[Use]) -> str:
    rows = [(use.name, str(use.count), format_ns(use.busy_ns), _percent(use.share)) for use in uses]
    return _table((title, "tasks", "busy", "of wall"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Columns as wide as their cells, the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(row: tuple[str, ...]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, rows)])


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
