// The part of a buffer that an access touches: what makes disjoint slices independent.
#pragma once
#include <cstdint>

namespace dagrun {

// Bytes [lo, hi) of a buffer; with stride > 0 only the bytes b of it with (b - lo) % stride < width.
// The strided form holds column blocks x[:, a:b] and steps x[::2] exactly, so that they do not serialise.
struct Region {
  int64_t lo = 0;
  int64_t hi = 0;
  int64_t stride = 0;
  int64_t width = 0;
};

inline bool operator==(const Region& a, const Region& b) {
  return a.lo == b.lo && a.hi == b.hi && a.stride == b.stride && a.width == b.width;
}

inline Region shifted(Region r, int64_t by) {
  r.lo += by;
  r.hi += by;
  return r;
}

// May say true of disjoint regions (never false of overlapping ones): exact for intervals, for a box against
// an interval, and for boxes of one stride.
inline bool overlaps(const Region& a, const Region& b) {
  if (a.lo >= b.hi || b.lo >= a.hi || a.lo >= a.hi || b.lo >= b.hi) return false;
  if (!a.stride && !b.stride) return true;
  if (a.stride && b.stride && a.stride != b.stride) return true;
  const int64_t stride = a.stride ? a.stride : b.stride;
  const int64_t width_a = a.stride ? a.width : a.hi - a.lo;
  const int64_t width_b = b.stride ? b.width : b.hi - b.lo;
  if (width_a >= stride || width_b >= stride) return true;
  int64_t gap = (b.lo - a.lo) % stride;
  if (gap < 0) gap += stride;
  return gap < width_a || gap + width_b > stride;
}

// Whether a write to `outer` replaces every byte of `inner`.
inline bool covers(const Region& outer, const Region& inner) {
  if (!outer.stride) return outer.lo <= inner.lo && inner.hi <= outer.hi;
  return outer == inner;
}

}  // namespace dagrun
