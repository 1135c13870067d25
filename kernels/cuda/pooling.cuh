// Pooling over windows of planes; the kernels are those of dagrun/codegen/pooling.py.
//
// Params: the head below, then for rows and for columns their runs of windows (see Axis), then the dimensions outside of
// planes. Adjoints are gathered, not scattered: a thread goes over the windows that hold its element in the CPU's order.
//
// Op: Dtype, Wide (in which is summed); lowest() -> Dtype; greater(x, best): x is larger, or NaN; add(Dtype, Dtype).
#pragma once
#include "lines.cuh"

namespace dagrun {

constexpr u32 SLOTS = 4;  // of each thread of pool_put

// The windows of one axis, in runs of windows that have even steps: the number of the first window, its first element,
// the step from window to window, the number of elements, the factor of the divisor. (All of it fits into 32 bits.)
struct Axis {
  const i64* runs;
  i32 count, dilation;

  DAGRUN_METHOD i32 word(i32 run, int k) const { return i32(runs[5 * run + k]); }
  DAGRUN_METHOD void window(i32 number, i32& first, i32& elements, i32& factor) const {
    i32 run = 0;
    while (run + 1 < count && word(run + 1, 0) <= number) run++;
    first = word(run, 1) + (number - word(run, 0)) * word(run, 2), elements = word(run, 3), factor = word(run, 4);
  }
  // Calls body(number, factor) for each of `windows` windows that holds an element, in order.
  template <class Body>
  DAGRUN_METHOD void each_that_holds(i32 element, i32 windows, Body body) const {
    for (i32 run = 0; run < count; run++) {
      const i32 begin = word(run, 0), step = word(run, 2), factor = word(run, 4);
      const i32 span = (word(run, 3) - 1) * dilation, gap = element - word(run, 1);
      i32 low = 0, high = (run + 1 < count ? word(run + 1, 0) : windows) - begin - 1;
      if (step > 0) {  // 0 <= gap - k step <= span
        if (gap < 0) continue;
        if (gap > span) low = i32(u32(gap - span + step - 1) / u32(step));
        const i32 last = i32(u32(gap) / u32(step));
        if (last < high) high = last;
      }
      for (i32 k = low; k <= high; k++) {
        const i32 own = gap - k * step;
        if (own >= 0 && own <= span && (dilation == 1 || own % dilation == 0)) body(begin + k, factor);
      }
    }
  }
};

template <int K>
struct Planes {
  const Call& call;
  i64 dims, row_stride, column_stride, count;
  i32 out_rows, out_columns, rows, columns, outs;
  Axis of_rows, of_columns;
  const i64* outer;

  DAGRUN_METHOD explicit Planes(const Call& call_) : call(call_) {
    const i64* words = call.params;
    dims = words[0], row_stride = words[5], column_stride = words[6];
    out_rows = i32(words[1]), out_columns = i32(words[2]), rows = i32(words[3]), columns = i32(words[4]);
    outs = out_rows * out_columns;
    of_rows = {words + 11, i32(words[9]), i32(words[7])};
    of_columns = {words + 11 + 5 * words[9], i32(words[10]), i32(words[8])};
    outer = of_columns.runs + 5 * words[10];
    count = outs == 0 ? 0 : positions(outer, dims, K);
  }
  DAGRUN_METHOD void move(i64 plane, char* (&at)[K]) const {
    i64 offsets[K] = {};
    position<K>(outer, dims, plane, offsets);
    for (int k = 0; k < K; k++) at[k] = call.data[k] + offsets[k];
  }
  // To element `number` of all planes, which have `size` each: its own number in its plane.
  DAGRUN_METHOD i32 find(i64 number, i32 size, char* (&at)[K]) const {
    i64 plane, place;
    divide(number, size, plane, place);
    move(plane, at);
    return i32(place);
  }
  // Calls body(row, column, place in memory) for each element of window (i, j) of the plane at `x`, row by row; gives
  // the number of elements that the mean divides by.
  template <class Body>
  DAGRUN_METHOD i32 window(i32 i, i32 j, const char* x, Body body) const {
    i32 row, height, row_factor, column, width, column_factor;
    of_rows.window(i, row, height, row_factor);
    of_columns.window(j, column, width, column_factor);
    const char* start = x + row * row_stride + column * column_stride;
    const i64 down = of_rows.dilation * row_stride, right = of_columns.dilation * column_stride;
    for (i32 a = 0; a < height; a++, start += down) {
      const char* at = start;
#pragma unroll 4
      for (i32 b = 0; b < width; b++, at += right) body(row + a * of_rows.dilation, column + b * of_columns.dilation, at);
    }
    return row_factor * column_factor;
  }
};

// values, places, x
template <class Op>
DAGRUN_INLINE void pool_max(const Call& call) {
  using Dtype = typename Op::Dtype;
  const Planes<3> p(call);
  for (i64 n = first_thread(); n < p.count * p.outs; n += all_threads()) {
    char* at[3];
    i32 i, j;
    const i32 place = p.find(n, p.outs, at);
    divide(place, p.out_columns, i, j);
    Dtype best = Op::lowest();
    i32 found = -1;  // the first one, if none is larger
    p.window(i, j, at[2], [&](i32 r, i32 c, const char* there) {
      const Dtype x = load<Dtype>(there);
      const bool greater = Op::greater(x, best);
      if (greater) best = x;
      if (greater || found < 0) found = r * p.columns + c;
    });
    store(at[0] + place * i64(sizeof(Dtype)), best);
    store(at[1] + place * i64(sizeof(i32)), found);
  }
}

// y, x
template <class Op>
DAGRUN_INLINE void pool_mean(const Call& call) {
  using Dtype = typename Op::Dtype;
  using Wide = typename Op::Wide;
  const Planes<2> p(call);
  for (i64 n = first_thread(); n < p.count * p.outs; n += all_threads()) {
    char* at[2];
    i32 i, j;
    const i32 place = p.find(n, p.outs, at);
    divide(place, p.out_columns, i, j);
    Wide total = 0;
    const i32 divisor =
        p.window(i, j, at[1], [&](i32, i32, const char* there) { total = total + widen(load<Dtype>(there)); });
    store(at[0] + place * i64(sizeof(Dtype)), narrow<Dtype>(total / Wide(divisor)));
  }
}

// x, y: each element sums over the windows that hold it.
template <class Op>
DAGRUN_INLINE void pool_spread(const Call& call) {
  using Dtype = typename Op::Dtype;
  using Wide = typename Op::Wide;
  const Planes<2> p(call);
  const i32 size = p.rows * p.columns;
  for (i64 n = first_thread(); n < p.count * size; n += all_threads()) {
    char* at[2];
    i32 r, c;
    divide(p.find(n, size, at), p.columns, r, c);
    Dtype total = narrow<Dtype>(Wide(0));
    p.of_rows.each_that_holds(r, p.out_rows, [&](i32 i, i32 row_factor) {
      p.of_columns.each_that_holds(c, p.out_columns, [&](i32 j, i32 column_factor) {
        const Wide y = widen(load<Dtype>(at[1] + (i * p.out_columns + j) * i64(sizeof(Dtype))));
        const Wide share = y / Wide(row_factor * column_factor);
        total = narrow<Dtype>(Wide(widen(total) + share));
      });
    });
    store(at[0] + r * p.row_stride + c * p.column_stride, total);
  }
}

// Where the places of elements come from a launch that was refused, they are garbage, and what is made of them is not
// looked at: but an address out of bounds would end the GPU's context.

// y, x, places
template <class Op>
DAGRUN_INLINE void pool_pick(const Call& call) {
  using Dtype = typename Op::Dtype;
  const Planes<3> p(call);
  for (i64 n = first_thread(); n < p.count * p.outs; n += all_threads()) {
    char* at[3];
    const i32 place = p.find(n, p.outs, at);
    const i64 from = load<i32>(at[2] + place * i64(sizeof(i32)));
    if (from < 0 || from >= p.rows * p.columns) continue;
    store(at[0] + place * i64(sizeof(Dtype)), load<Dtype>(at[1] + from * i64(sizeof(Dtype))));
  }
}

// x, y, places: a block of threads for each plane, a thread for each of some places at a time. Those that might be the same
// place (they share a slot) take turns, in order, so an element of x gets its sum in the order of y.
template <class Op>
DAGRUN_INLINE void pool_put(const Call& call) {
  using Dtype = typename Op::Dtype;
  constexpr u32 FREE = ~0u;
  const Planes<3> p(call);
  u32* slots = reinterpret_cast<u32*>(DAGRUN_SHARED);
  const u32 count = SLOTS * blockDim.x;  // a power of two
  for (u32 k = threadIdx.x; k < count; k += blockDim.x) slots[k] = FREE;
  for (i64 plane = blockIdx.x; plane < p.count; plane += gridDim.x) {
    char* at[3];
    p.move(plane, at);
    for (i64 k = threadIdx.x; k < i64(p.rows) * p.columns; k += blockDim.x) {
      store(at[0] + k * i64(sizeof(Dtype)), Op::zero());
    }
    for (i64 start = 0; start < p.outs; start += blockDim.x) {
      const i64 k = start + threadIdx.x;
      bool waits = k < p.outs;
      i64 place = 0;
      Dtype y = Op::zero();
      if (waits) place = load<i32>(at[2] + k * i64(sizeof(i32))), y = load<Dtype>(at[1] + k * i64(sizeof(Dtype)));
      if (place < 0 || place >= p.rows * p.columns) waits = false;
      char* target = at[0] + place * i64(sizeof(Dtype));
      u32* slot = slots + (u32(place) & (count - 1));
      while (__syncthreads_or(waits)) {
        if (waits) atomicMin(slot, threadIdx.x);
        __syncthreads();
        const bool turn = waits && *slot == threadIdx.x;
        if (!turn) continue;
        store(target, Op::add(load<Dtype>(target), y));
        *slot = FREE;  // whoever still looks at it sees another's number or this: it is not its turn
        waits = false;
      }
    }
  }
}

}  // namespace dagrun
