"""The part of a buffer that an access touches: what makes disjoint slices independent."""

from collections.abc import Sequence

# Bytes [lo, hi) of a buffer; with stride > 0 only the bytes b of it with (b - lo) % stride < width.
# The strided form holds column blocks x[:, a:b] and steps x[::2] exactly, so that they do not serialise.
Region = tuple[int, int, int, int]  # lo, hi, stride, width


def shifted(region: Region, by: int) -> Region:
    """The same bytes, `by` further on."""
    return region[0] + by, region[1] + by, region[2], region[3]


def overlaps(a: Region, b: Region) -> bool:
    """Whether two regions may share a byte: exact for intervals, a box and an interval, and boxes of one stride."""
    a_lo, a_hi, a_stride, a_width = a
    b_lo, b_hi, b_stride, b_width = b
    if a_lo >= b_hi or b_lo >= a_hi or a_lo >= a_hi or b_lo >= b_hi:
        return False
    if not a_stride and not b_stride:
        return True
    if a_stride and b_stride and a_stride != b_stride:
        return True
    stride = a_stride or b_stride
    a_width = a_width if a_stride else a_hi - a_lo
    b_width = b_width if b_stride else b_hi - b_lo
    if a_width >= stride or b_width >= stride:
        return True
    gap = (b_lo - a_lo) % stride
    return gap < a_width or gap + b_width > stride


def covers(outer: Region, inner: Region) -> bool:
    """Whether a write to `outer` replaces every byte of `inner`."""
    return outer == inner if outer[2] else outer[0] <= inner[0] and inner[1] <= outer[1]


def region_of_view(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> tuple[Region, bool]:
    """The smallest region of the known forms that holds a view, and whether it holds no other bytes."""
    if 0 in shape:
        return (0, 0, 0, 0), True
    extents = [(length - 1) * stride for length, stride in zip(shape, strides)]
    lo, hi = sum(e for e in extents if e < 0), itemsize + sum(e for e in extents if e > 0)
    width, stride, count, divides = itemsize, 0, 1, True
    for step, length in sorted((abs(s), n) for s, n in zip(strides, shape) if n > 1):
        if not stride and step <= width:  # neighbours touch or overlap: one longer run of bytes
            width += step * (length - 1)
        elif not stride:
            stride, count = step, length
        elif step % stride:
            divides = False
        elif step == stride * count:
            count *= length
    size = itemsize
    for length in shape:
        size *= length
    if not stride or not divides or width >= stride:
        return (lo, hi, 0, 0), hi - lo == size
    return (lo, hi, stride, width), ((hi - lo - width) // stride + 1) * width == size
