// Pooling over windows of planes; the kernels are those of dagrun/codegen/pooling.py.
//
// Params: the head below, then for rows and for columns their runs of windows (see Axis), then the dimensions outside of
// planes. Adjoints are gathered, not scattered: a thread goes over the windows that hold its element in the CPU's order.
//
// Op: Dtype, Wide (in which is summed); lowest() -> Dtype; greater(x, best): x is larger, or NaN; add(Dtype, Dtype).
#pragma once
#include "lines.cuh"

namespace dagrun {

// The windows of one axis, in runs of windows that have even steps: the number of the first window, its first element,
// the step from window to window, the number of elements, the factor of the divisor.
struct Axis {
  const i64* runs;
  i64 count, dilation;

  DAGRUN_METHOD const i64* run_of(i64 number) const {
    const i64* run = runs;
    while (run + 5 < runs + 5 * count && run[5] <= number) run += 5;
    return run;
  }
  DAGRUN_METHOD void window(i64 number, i64& first, i64& elements, i64& factor) const {
    const i64* run = run_of(number);
    first = run[1] + (number - run[0]) * run[2], elements = run[3], factor = run[4];
  }
  // Calls body(number, factor) for each of `windows` windows that holds an element, in order.
  template <class Body>
  DAGRUN_METHOD void each_that_holds(i64 element, i64 windows, Body body) const {
    for (i64 r = 0; r < count; r++) {
      const i64* run = runs + 5 * r;
      const i64 span = (run[3] - 1) * dilation, gap = element - run[1], step = run[2];
      i64 low = 0, high = (r + 1 < count ? run[5] : windows) - run[0] - 1;
      if (step > 0) {  // 0 <= gap - k step <= span
        if (gap < 0) continue;
        if (gap > span) low = (gap - span + step - 1) / step;
        if (gap / step < high) high = gap / step;
      }
      for (i64 k = low; k <= high; k++) {
        const i64 own = gap - k * step;
        if (own >= 0 && own <= span && own % dilation == 0) body(run[0] + k, run[4]);
      }
    }
  }
};

template <int K>
struct Planes {
  const Call& call;
  i64 dims, out_rows, out_columns, rows, columns, row_stride, column_stride, outs, count;
  Axis of_rows, of_columns;
  const i64* outer;

  DAGRUN_METHOD explicit Planes(const Call& call_) : call(call_) {
    const i64* words = call.params;
    dims = words[0], out_rows = words[1], out_columns = words[2], rows = words[3], columns = words[4];
    row_stride = words[5], column_stride = words[6], outs = out_rows * out_columns;
    of_rows = {words + 11, words[9], words[7]};
    of_columns = {words + 11 + 5 * words[9], words[10], words[8]};
    outer = of_columns.runs + 5 * words[10];
    count = outs == 0 ? 0 : positions(outer, dims, K);
  }
  DAGRUN_METHOD void move(i64 plane, char* (&at)[K]) const {
    i64 offsets[K] = {};
    position<K>(outer, dims, plane, offsets);
    for (int k = 0; k < K; k++) at[k] = call.data[k] + offsets[k];
  }
};

// values, places, x
template <class Op>
DAGRUN_INLINE void pool_max(const Call& call) {
  using Dtype = typename Op::Dtype;
  const Planes<3> p(call);
  for (i64 n = first_thread(); n < p.count * p.outs; n += all_threads()) {
    char* at[3];
    i64 plane, place, i, j, row, height, column, width, factor;
    divide(n, p.outs, plane, place);
    divide(place, p.out_columns, i, j);
    p.move(plane, at);
    p.of_rows.window(i, row, height, factor);
    p.of_columns.window(j, column, width, factor);
    Dtype best = Op::lowest();
    i32 found = i32(row * p.columns + column);
    for (i64 a = 0; a < height; a++) {
      for (i64 b = 0; b < width; b++) {
        const i64 r = row + a * p.of_rows.dilation, c = column + b * p.of_columns.dilation;
        const Dtype x = load<Dtype>(at[2] + r * p.row_stride + c * p.column_stride);
        if (Op::greater(x, best)) best = x, found = i32(r * p.columns + c);
      }
    }
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
    i64 plane, place, i, j, row, height, row_factor, column, width, column_factor;
    divide(n, p.outs, plane, place);
    divide(place, p.out_columns, i, j);
    p.move(plane, at);
    p.of_rows.window(i, row, height, row_factor);
    p.of_columns.window(j, column, width, column_factor);
    Wide total = 0;
    for (i64 a = 0; a < height; a++) {
      for (i64 b = 0; b < width; b++) {
        const i64 r = row + a * p.of_rows.dilation, c = column + b * p.of_columns.dilation;
        total = total + widen(load<Dtype>(at[1] + r * p.row_stride + c * p.column_stride));
      }
    }
    store(at[0] + place * i64(sizeof(Dtype)), narrow<Dtype>(total / Wide(row_factor * column_factor)));
  }
}

// x, y: each element sums over the windows that hold it.
template <class Op>
DAGRUN_INLINE void pool_spread(const Call& call) {
  using Dtype = typename Op::Dtype;
  using Wide = typename Op::Wide;
  const Planes<2> p(call);
  const i64 size = p.rows * p.columns;
  for (i64 n = first_thread(); n < p.count * size; n += all_threads()) {
    char* at[2];
    i64 plane, place, r, c;
    divide(n, size, plane, place);
    divide(place, p.columns, r, c);
    p.move(plane, at);
    Dtype total = narrow<Dtype>(Wide(0));
    p.of_rows.each_that_holds(r, p.out_rows, [&](i64 i, i64 row_factor) {
      p.of_columns.each_that_holds(c, p.out_columns, [&](i64 j, i64 column_factor) {
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
    i64 plane, place;
    divide(n, p.outs, plane, place);
    p.move(plane, at);
    const i64 from = load<i32>(at[2] + place * i64(sizeof(i32)));
    if (from < 0 || from >= p.rows * p.columns) continue;
    store(at[0] + place * i64(sizeof(Dtype)), load<Dtype>(at[1] + from * i64(sizeof(Dtype))));
  }
}

// x, y, places: a block of threads for each plane. A thread owns the elements whose number leaves a certain rest, clears
// them and serves, in order, the places that name them.
template <class Op>
DAGRUN_INLINE void pool_put(const Call& call) {
  using Dtype = typename Op::Dtype;
  const Planes<3> p(call);
  i32* places = reinterpret_cast<i32*>(DAGRUN_SHARED);
  const unsigned mask = blockDim.x - 1;  // a power of two of threads
  for (i64 plane = blockIdx.x; plane < p.count; plane += gridDim.x) {
    char* at[3];
    p.move(plane, at);
    for (i64 k = threadIdx.x; k < p.rows * p.columns; k += blockDim.x) {
      store(at[0] + k * i64(sizeof(Dtype)), Op::zero());
    }
    for (i64 start = 0; start < p.outs; start += blockDim.x) {
      const i64 rest = p.outs - start;
      if (threadIdx.x < rest) places[threadIdx.x] = load<i32>(at[2] + (start + threadIdx.x) * i64(sizeof(i32)));
      __syncthreads();
      for (i64 k = 0; k < rest && k < blockDim.x; k++) {
        if ((unsigned(places[k]) & mask) != threadIdx.x || places[k] < 0 || places[k] >= p.rows * p.columns) continue;
        char* target = at[0] + i64(places[k]) * i64(sizeof(Dtype));
        store(target, Op::add(load<Dtype>(target), load<Dtype>(at[1] + (start + k) * i64(sizeof(Dtype)))));
      }
      __syncthreads();
    }
  }
}

}  // namespace dagrun
