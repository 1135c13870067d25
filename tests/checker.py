"""An independent check of a trace: every two tasks that touch the same bytes, one of them writing, must be ordered.

It shares no code with the executor: overlap is decided by the sets of bytes themselves, and order by what the trace
shows. Two conflicting tasks are in order when a chain of recorded edges leads from the earlier to the later, or when
the earlier had ended before the later was even recorded; and they must have run in that order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from dagrun.core import Access, TaskRecord


def touched(access: Access) -> np.ndarray:
    """The bytes of an access, as positions in its buffer."""
    where = np.arange(access.lo, access.hi)
    return where if not access.stride else where[(where - access.lo) % access.stride < access.width]


def violations(records: Sequence[TaskRecord]) -> list[str]:
    """One line for every conflicting pair of tasks that the trace does not show ordered."""
    records = sorted(records, key=lambda record: record.sequence)
    ancestors: dict[int, set[int]] = {}
    for record in records:
        mine: set[int] = set()
        for predecessor, _ in record.predecessors:
            mine.add(predecessor)
            mine |= ancestors.get(predecessor, set())
        ancestors[record.sequence] = mine
    by_buffer: dict[int, list[tuple[TaskRecord, Access, frozenset[int]]]] = defaultdict(list)
    found = []
    for record in records:
        for access in record.accesses:
            mine_bytes = frozenset(touched(access).tolist())
            for earlier, other, other_bytes in by_buffer[access.buffer]:
                if earlier.sequence == record.sequence or not (access.write or other.write):
                    continue
                if mine_bytes.isdisjoint(other_bytes):
                    continue
                before = earlier.sequence in ancestors[record.sequence] or 0 < earlier.end_ns <= record.recorded_ns
                ran_before = earlier.end_ns <= record.begin_ns
                if not before or not ran_before:
                    found.append(
                        f"buffer {access.buffer}: {earlier.name} (task {earlier.sequence}) and {record.name} (task "
                        f"{record.sequence}): {'no chain of edges' if not before else 'ran out of order'}"
                    )
            by_buffer[access.buffer].append((record, access, mine_bytes))
    return found
