"""Folding a long list of tasks into few boxes that still follow the program's lines."""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence

from dagrun.core.scopes import Scope
from dagrun.core.trace import TaskRecord
from dagrun.viz.style import kind_of

Key = Callable[[TaskRecord], Hashable]


def fold(
    records: Sequence[TaskRecord], limit: int, scopes: Mapping[int, Scope] | None = None
) -> list[list[TaskRecord]]:
    """At most `limit` groups of tasks that belong together, in program order of their first task.

    The first of these that is small enough is taken: operations, with the blocks of one in one group; scopes (such as
    the forward pass of one layer on one device), then those that hold them; runs of one operator of one line on one
    device; the same over the whole program (the turns of a loop become one); one group per line and device; per
    function and device. What is still too long keeps its largest groups, and the rest becomes one.
    """
    if limit < 1:
        raise ValueError(f"a graph needs at least one box, got limit={limit}")
    groups = _operations(records)
    if len(groups) <= limit:
        return groups
    for depth in range(max((scope.path.count(".") + 1 for scope in (scopes or {}).values()), default=0), 0, -1):
        groups = _scoped(records, scopes or {}, depth)
        if len(groups) <= limit:
            return groups
    groups = _runs(records)
    keys: tuple[Key, ...] = (
        lambda r: (r.device, r.lane, r.name, r.file, r.line),
        lambda r: (r.device, r.file, r.line),
        lambda r: (r.device, r.file, r.function),
    )
    for key in keys:
        if len(groups) <= limit:
            return groups
        groups = _grouped(records, key)
    return groups if len(groups) <= limit else _largest(groups, limit)


def common_scope(records: Sequence[TaskRecord], scopes: Mapping[int, Scope]) -> Scope | None:
    """The innermost scope that holds all tasks; None where there is none."""
    found = [scopes.get(record.sequence) for record in records]
    first = found[0] if found else None
    if first is None or any(scope is None or scope.backward != first.backward for scope in found):
        return None
    for depth in range(first.path.count(".") + 1, 0, -1):
        above = {scope.above(depth) for scope in found if scope is not None}
        if len(above) == 1:
            return above.pop()
    return None


def common_names(records: Sequence[TaskRecord], shown: int = 2) -> str:
    """The operators of a group in a few words, the most frequent first.

    >>> common_names([])
    ''
    """
    counts = Counter(record.name for record in records)
    names = sorted(counts, key=lambda name: (-counts[name], name))
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _operations(records: Sequence[TaskRecord]) -> list[list[TaskRecord]]:
    """Blocks of one operation: neighbours that are alike, write the same buffers and do not wait for each other."""
    groups: list[list[TaskRecord]] = []
    last_key: Hashable = None
    members: set[int] = set()
    for record in records:
        written = frozenset(access.buffer for access in record.accesses if access.write)
        key = (record.device, record.lane, record.name, record.file, record.line, record.shapes, written)
        if key != last_key or not written or any(sequence in members for sequence, _ in record.predecessors):
            groups.append([])
            members = set()
            last_key = key
        groups[-1].append(record)
        members.add(record.sequence)
    return groups


def _scoped(records: Sequence[TaskRecord], scopes: Mapping[int, Scope], depth: int) -> list[list[TaskRecord]]:
    """One group for what a scope does on a device; what is in none by operations."""
    groups: dict[Hashable, list[TaskRecord]] = {}
    outside = [record for record in records if record.sequence not in scopes]
    for i, group in enumerate(_operations(outside)):
        groups[i] = group
    for record in records:
        if record.sequence in scopes:
            key = (record.device, kind_of(record), scopes[record.sequence].above(depth))
            groups.setdefault(key, []).append(record)
    return sorted(groups.values(), key=lambda group: group[0].sequence)


def _runs(records: Sequence[TaskRecord]) -> list[list[TaskRecord]]:
    groups: list[list[TaskRecord]] = []
    last_of_device: dict[str, tuple[Hashable, list[TaskRecord]]] = {}
    for record in records:
        key = (record.lane, record.name, record.file, record.line)
        last_key, group = last_of_device.get(record.device, (None, []))
        if key != last_key:
            group = []
            groups.append(group)
            last_of_device[record.device] = (key, group)
        group.append(record)
    return groups


def _grouped(records: Sequence[TaskRecord], key: Key) -> list[list[TaskRecord]]:
    groups: dict[Hashable, list[TaskRecord]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return list(groups.values())


def _largest(groups: list[list[TaskRecord]], limit: int) -> list[list[TaskRecord]]:
    by_size = sorted(groups, key=lambda group: (-len(group), group[0].sequence))
    rest = sorted((record for group in by_size[limit - 1 :] for record in group), key=lambda r: r.sequence)
    return sorted([*by_size[: limit - 1], rest], key=lambda group: group[0].sequence)
