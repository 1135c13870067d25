"""Arithmetic of half-open time intervals, kept sorted and apart from each other."""

from collections.abc import Iterable, Sequence

Interval = tuple[int, int]  # [begin, end)


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The times covered by any of the intervals.

    >>> union([(5, 9), (0, 3), (2, 4), (4, 4)])
    [(0, 4), (5, 9)]
    """
    merged: list[Interval] = []
    for begin, end in sorted(intervals):
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        elif begin < end:
            merged.append((begin, end))
    return merged


def common(a: Sequence[Interval], b: Sequence[Interval]) -> list[Interval]:
    """The times covered by both of two unions.

    >>> common([(0, 4), (5, 9)], [(3, 6)])
    [(3, 4), (5, 6)]
    """
    found = []
    i = j = 0
    while i < len(a) and j < len(b):
        begin, end = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if begin < end:
            found.append((begin, end))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return found


def length(intervals: Iterable[Interval]) -> int:
    """The time covered by a union.

    >>> length([(0, 4), (5, 9)])
    8
    """
    return sum(end - begin for begin, end in intervals)
