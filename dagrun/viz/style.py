"""What the pictures share: which colours, which words for a task, which units, and which row a task stands in."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from dagrun.core.trace import TaskRecord

TaskKind = Literal["compute", "copy", "collective", "python"]

# Colours that people with any of the common colour deficiencies tell apart, from Paul Tol, "Colour Schemes", SRON
# technical note SRON/EPS/TN/09-002: "light" under black text, "muted" for bars.
DEVICE_COLOURS = ("#77AADD", "#EE8866", "#EEDD88", "#99DDFF", "#FFAABB", "#44BB99", "#BBCC33", "#AAAA00")
OPERATOR_COLOURS = ("#332288", "#DDCC77", "#117733", "#CC6677", "#88CCEE", "#882255", "#44AA99", "#999933", "#AA4499")
OTHER_COLOUR = "#BBBBBB"
FAILED_COLOUR = "#BB0000"

_LANES = ("compute", "copy", "communication", "python")
_COLLECTIVES = frozenset({"all_reduce", "reduce_scatter", "all_gather", "broadcast", "all_to_all"})
_COPIES = frozenset({"copy", "to_device"})


def kind_of(record: TaskRecord) -> TaskKind:
    """What sort of work a task is: a collective's step, a copy, a Python callable, or plain computing."""
    family = record.name.split(".")[0]
    if record.lane == "communication" or family in _COLLECTIVES:
        return "collective"
    if record.lane == "copy" or family in _COPIES:
        return "copy"
    return "python" if record.lane == "python" else "compute"


def device_order(label: str) -> tuple[str, int, str]:
    """A sort key for labels that puts ``"cpu:2"`` before ``"cpu:10"``, and ``"worker 2"`` before ``"worker 10"``."""
    head = label.rstrip("0123456789")
    return head, int(label[len(head) :] or -1), label


def lane_order(lane: str) -> str:
    """A sort key for lanes: compute, copy, communication, python, then others."""
    return f"{_LANES.index(lane)}" if lane in _LANES else f"{len(_LANES)}{lane}"


def device_colours(devices: Iterable[str]) -> dict[str, str]:
    """One colour per device, in the order of the labels; past the end of the palette the colours start again."""
    ordered = sorted(set(devices), key=device_order)
    return {device: DEVICE_COLOURS[i % len(DEVICE_COLOURS)] for i, device in enumerate(ordered)}


def operator_colours(records: Sequence[TaskRecord]) -> dict[str, str]:
    """Colours for the operators that took the most time, most first; the rest are left out."""
    spent: Counter[str] = Counter()
    for record in records:
        spent[record.name] += record.duration_ns
    ranked = sorted(spent, key=lambda name: (-spent[name], name))
    return dict(zip(ranked, OPERATOR_COLOURS, strict=False))


def format_ns(nanoseconds: float) -> str:
    """A duration with three digits and a unit.

    >>> format_ns(1234), format_ns(56_700_000), format_ns(12_340_000_000)
    ('1.23 us', '56.7 ms', '12.3 s')
    """
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if nanoseconds >= size * 0.9995:
            return f"{_three_digits(nanoseconds / size)} {unit}"
    return f"{nanoseconds:.0f} ns"


def format_nbytes(nbytes: int) -> str:
    """A number of bytes with three digits and a decimal unit.

    >>> format_nbytes(512), format_nbytes(401_408)
    ('512 B', '401 kB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= size:
            return f"{_three_digits(nbytes / size)} {unit}"
    return f"{nbytes} B"


def rows_of(
    records: Iterable[TaskRecord], key: Callable[[TaskRecord], tuple[str, ...]]
) -> dict[tuple[tuple[str, ...], int], list[TaskRecord]]:
    """The tasks that ran, in rows where no two overlap in time: (key, 0), and (key, 1), ... if tasks of one key did.

    Rows come sorted by key; the tasks of a row by time.
    """
    lists: Mapping[tuple[str, ...], list[TaskRecord]] = defaultdict(list)
    for record in records:
        if record.ran:
            lists[key(record)].append(record)
    rows: dict[tuple[tuple[str, ...], int], list[TaskRecord]] = {}
    for name in sorted(lists, key=lambda name: tuple(device_order(part) for part in name)):
        free_at: list[int] = []
        for record in sorted(lists[name], key=lambda r: (r.begin_ns, r.end_ns, r.sequence)):
            row = next((i for i, end in enumerate(free_at) if end <= record.begin_ns), len(free_at))
            free_at[row : row + 1] = [record.end_ns]
            rows.setdefault((name, row), []).append(record)
    return rows


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
