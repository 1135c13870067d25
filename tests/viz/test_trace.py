"""The bytes that two accesses share, against sets of bytes counted one by one."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dagrun.core.trace import Access, conflict, conflicts, overlap, shared_nbytes


def dense(lo: int, hi: int, write: bool = False, buffer: int = 1) -> Access:
    return Access(buffer, lo, hi, 0, 0, write)


def box(lo: int, hi: int, stride: int, width: int, write: bool = False) -> Access:
    return Access(1, lo, hi, stride, width, write)


def bytes_of(access: Access) -> set[tuple[int, int]]:
    rows = access.stride or 1
    width = access.width if access.stride else 1
    return {(access.buffer, b) for b in range(access.lo, access.hi) if (b - access.lo) % rows < width}


@pytest.mark.parametrize(
    ("a", "b", "shared"),
    [
        (dense(0, 8), dense(8, 16), 0),
        (dense(0, 8), dense(7, 16), 1),
        (dense(0, 8), dense(0, 8, buffer=2), 0),
        (dense(4, 4), dense(0, 8), 0),
        (box(0, 64, 16, 8), box(8, 64, 16, 8), 0),  # left and right half of a matrix
        (box(0, 64, 16, 9), box(8, 64, 16, 8), 4),  # the left half and one column more
        (box(0, 64, 16, 4), dense(4, 16), 0),  # a column, and the rest of the first row
        (box(0, 64, 16, 4), dense(4, 17), 1),
        (box(0, 64, 16, 4), box(40, 64, 8, 4), None),  # not worked out, so overlapping to be safe
        (box(0, 64, 16, 4), box(4, 64, 8, 4), 0),  # apart modulo 8
    ],
)
def test_literal_cases(a: Access, b: Access, shared: int | None) -> None:
    assert shared_nbytes(a, b) == shared
    assert shared_nbytes(b, a) == shared
    assert overlap(a, b) == (shared != 0)


@st.composite
def accesses(draw: st.DrawFn, stride: int | None = None) -> Access:
    lo = draw(st.integers(0, 30))
    stride = draw(st.integers(0, 12)) if stride is None else stride
    return Access(
        draw(st.sampled_from([1, 1, 1, 2])),
        lo,
        lo + draw(st.integers(0, 40)),
        stride,
        draw(st.integers(0, stride)),
        draw(st.booleans()),
    )


@given(accesses(), st.data())
def test_exact_for_intervals_and_equal_strides(a: Access, data: st.DataObject) -> None:
    b = data.draw(accesses(data.draw(st.sampled_from([0, a.stride]))))
    assert shared_nbytes(a, b) == len(bytes_of(a) & bytes_of(b))
    assert a.nbytes == len(bytes_of(a))


@given(accesses(), accesses())
@example(box(0, 40, 6, 3), box(3, 40, 9, 3))
def test_never_misses_a_shared_byte(a: Access, b: Access) -> None:
    shared = shared_nbytes(a, b)
    assert shared is None or shared == len(bytes_of(a) & bytes_of(b))
    assert shared is not None or a.stride != b.stride


def test_conflicts_name_the_edge() -> None:
    assert conflict(dense(0, 8, write=True), dense(0, 8)) == "RAW"
    assert conflict(dense(0, 8), dense(0, 8, write=True)) == "WAR"
    assert conflict(dense(0, 8, write=True), dense(0, 8, write=True)) == "WAW"
    assert conflict(dense(0, 8), dense(0, 8)) is None
    assert conflict(dense(0, 8, write=True), dense(8, 16, write=True)) is None


def test_record_properties(program) -> None:
    first = program.task("add", ["x"], ["x"], us=7, file="/home/me/train.py", line=31)
    second = program.task("add", ["x"], ["x"], run=False)
    assert conflicts(first, second) == ("RAW", "WAW", "WAR")
    assert (first.ran, first.duration_ns, first.location) == (True, 7000, "train.py:31")
    assert (second.ran, second.duration_ns) == (False, 0)
