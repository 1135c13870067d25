// Convolutions of groups with few channels, such as depthwise ones, as sums over windows; params as in implicit_gemm.cuh.
// A product of such a group would be almost all filling.
//
// Op: Dtype; Sum, in which is summed (by fused multiply-add).
#pragma once
#include "convolution.cuh"
#include "implicit_gemm.cuh"

namespace dagrun {

DAGRUN_INLINE f32 fused(f32 a, f32 b, f32 c) { return __fmaf_rn(a, b, c); }
DAGRUN_INLINE f64 fused(f64 a, f64 b, f64 c) { return __fma_rn(a, b, c); }
DAGRUN_INLINE f32 widened(f16 x) { return to_float(x); }
DAGRUN_INLINE f32 widened(f32 x) { return x; }
DAGRUN_INLINE f64 widened(f64 x) { return x; }
DAGRUN_INLINE void narrow(f32 x, f16& to) { to = to_half(x); }
DAGRUN_INLINE void narrow(f32 x, f32& to) { to = x; }
DAGRUN_INLINE void narrow(f64 x, f64& to) { to = x; }

template <class Dtype, class Sum>
DAGRUN_INLINE void store_sum(char* place, Sum sum) {
  Dtype value;
  narrow(sum, value);
  store(place, value);
}

// Four neighbouring places of a plane: which plane that is, and their rows and columns.
struct Neighbours {
  i64 image, plane, place;
  int row[SIDE_BY_SIDE], column[SIDE_BY_SIDE];
  DAGRUN_METHOD Neighbours(i64 number, i64 pieces, i64 planes, int columns) {
    i64 rest, piece, down, across;
    divide(number, pieces, rest, piece);
    divide(rest, planes, image, plane);
    place = piece * SIDE_BY_SIDE;
    divide(place, columns, down, across);
    for (int k = 0; k < SIDE_BY_SIDE; k++) {
      row[k] = int(down), column[k] = int(across);
      if (++across == columns) across = 0, down++;
    }
  }
};

// y, x, w [, bias]
template <class Op>
DAGRUN_INLINE void convolve_direct(const Call& call) {
  using Dtype = typename Op::Dtype;
  using Sum = typename Op::Sum;
  const Product w(call.params);
  const i64 planes = w.groups * w.outputs, pieces = (w.places() + SIDE_BY_SIDE - 1) / SIDE_BY_SIDE;
  for (i64 n = first_thread(); n < w.images * planes * pieces; n += all_threads()) {
    const Neighbours own(n, pieces, planes, w.out_columns);
    const i64 group = u32(own.plane) / u32(w.outputs), output = own.plane - group * w.outputs;
    const char* weight = call.data[2] + own.plane * w.channels * w.kernel_rows * w.kernel_columns * i64(sizeof(Dtype));
    const char* plane = call.data[1] + own.image * w.source_image + group * w.source_group;
    Sum total[SIDE_BY_SIDE] = {};
    for (int channel = 0; channel < w.channels; channel++, plane += w.source_channel) {
      for (int i = 0; i < w.kernel_rows; i++) {
        for (int j = 0; j < w.kernel_columns; j++, weight += sizeof(Dtype)) {
          const Sum factor = widened(load<Dtype>(weight));
          for (int k = 0; k < SIDE_BY_SIDE; k++) {
            const int r = own.row[k] * w.row_step + i * w.row_shift - w.top;
            const int c = own.column[k] * w.column_step + j * w.column_shift - w.left;
            const bool inside = u32(r) < u32(w.rows) && u32(c) < u32(w.columns);
            Dtype value{};
            if (inside) value = load<Dtype>(plane + i64(r) * w.source_row + i64(c) * w.source_column);
            total[k] = fused(widened(value), factor, total[k]);
          }
        }
      }
    }
    Sum bias = 0;
    if (call.params[28] != 0) bias = widened(load<Dtype>(call.data[3] + own.plane * i64(sizeof(Dtype))));
    char* out = call.data[0] + own.image * w.result_image + group * w.result_group + output * w.result_channel;
    for (int k = 0; k < SIDE_BY_SIDE && own.place + k < w.places(); k++) {
      store_sum<Dtype>(out + (own.place + k) * i64(sizeof(Dtype)), total[k] + bias);
    }
  }
}

// x, y, w: the adjoint in the image.
template <class Op>
DAGRUN_INLINE void spread_direct(const Call& call) {
  using Dtype = typename Op::Dtype;
  using Sum = typename Op::Sum;
  const Product w(call.params);
  const int size = w.rows * w.columns;
  const i64 planes = w.groups * w.channels, pieces = (size + SIDE_BY_SIDE - 1) / SIDE_BY_SIDE;
  const i64 taps = i64(w.kernel_rows) * w.kernel_columns * i64(sizeof(Dtype));
  for (i64 n = first_thread(); n < w.images * planes * pieces; n += all_threads()) {
    const Neighbours own(n, pieces, planes, w.columns);
    const i64 group = u32(own.plane) / u32(w.channels), channel = own.plane - group * w.channels;
    const char* plane = call.data[1] + own.image * w.result_image + group * w.result_group;
    const char* weight = call.data[2] + (group * w.outputs * w.channels + channel) * taps;
    Sum total[SIDE_BY_SIDE] = {};
    for (int output = 0; output < w.outputs; output++, plane += w.result_channel, weight += w.channels * taps) {
      for (int i = 0; i < w.kernel_rows; i++) {
        for (int j = 0; j < w.kernel_columns; j++) {
          const Sum factor = widened(load<Dtype>(weight + (i * w.kernel_columns + j) * i64(sizeof(Dtype))));
          for (int k = 0; k < SIDE_BY_SIDE; k++) {
            int row, column;
            if (!stepped(own.row[k] + w.top - i * w.row_shift, w.row_step, w.out_rows, row)) continue;
            if (!stepped(own.column[k] + w.left - j * w.column_shift, w.column_step, w.out_columns, column)) continue;
            const Dtype value = load<Dtype>(plane + (i64(row) * w.out_columns + column) * i64(sizeof(Dtype)));
            total[k] = fused(widened(value), factor, total[k]);
          }
        }
      }
    }
    char* out = call.data[0] + own.image * w.source_image + group * w.source_group + channel * w.source_channel;
    for (int k = 0; k < SIDE_BY_SIDE && own.place + k < size; k++) {
      store_sum<Dtype>(out + (own.place + k) * i64(sizeof(Dtype)), total[k]);
    }
  }
}

constexpr int TAPS_TOGETHER = 9;  // places of the kernel that a thread sums at a time
constexpr int SUMMING = 128;      // threads of a block

// partial weights (of Sum), y, x: a block for each part of the images' places and each output, channel and nine places of
// the kernel.
template <class Op>
DAGRUN_INLINE void correlate_direct(const Call& call) {
  using Dtype = typename Op::Dtype;
  using Sum = typename Op::Sum;
  const Product w(call.params);
  const i64 taps = i64(w.kernel_rows) * w.kernel_columns, chunks = (taps + TAPS_TOGETHER - 1) / TAPS_TOGETHER;
  const i64 parts = w.tiles, planes = w.groups * w.outputs, count = w.images * w.places();
  i64 part, rest, channel, plane, chunk;
  divide(blockIdx.x, chunks, rest, chunk);
  divide(rest, w.channels, rest, channel);
  divide(rest, planes, part, plane);
  if (part >= parts) return;
  const i64 group = plane / w.outputs, first = count * part / parts, after = count * (part + 1) / parts;
  const char* results = call.data[1] + group * w.result_group + (plane - group * w.outputs) * w.result_channel;
  const char* images = call.data[2] + group * w.source_group + channel * w.source_channel;
  Sum total[TAPS_TOGETHER] = {};
  for (i64 n = first + threadIdx.x; n < after; n += SUMMING) {
    i64 image, place, row, column;
    divide(n, w.places(), image, place);
    divide(place, w.out_columns, row, column);
    const Sum factor = widened(load<Dtype>(results + image * w.result_image + place * i64(sizeof(Dtype))));
    const char* source = images + image * w.source_image;
    const int top = int(row) * w.row_step - w.top, left = int(column) * w.column_step - w.left;
    int i = int(chunk) * TAPS_TOGETHER / w.kernel_columns, j = int(chunk) * TAPS_TOGETHER - i * w.kernel_columns;
#pragma unroll
    for (int tap = 0; tap < TAPS_TOGETHER; tap++) {
      const int r = top + i * w.row_shift, c = left + j * w.column_shift;
      const bool inside = i < w.kernel_rows && u32(r) < u32(w.rows) && u32(c) < u32(w.columns);
      Dtype value{};
      if (inside) value = load<Dtype>(source + i64(r) * w.source_row + i64(c) * w.source_column);
      total[tap] = fused(widened(value), factor, total[tap]);
      if (++j == w.kernel_columns) j = 0, i++;
    }
  }
  Sum* sums = reinterpret_cast<Sum*>(DAGRUN_SHARED);  // a line for each place of the kernel
  for (int tap = 0; tap < TAPS_TOGETHER; tap++) sums[tap * SUMMING + threadIdx.x] = total[tap];
  for (int half = SUMMING / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) {
      for (int tap = 0; tap < TAPS_TOGETHER; tap++) {
        sums[tap * SUMMING + threadIdx.x] += sums[tap * SUMMING + threadIdx.x + half];
      }
    }
  }
  __syncthreads();
  const i64 tap = chunk * TAPS_TOGETHER + threadIdx.x;
  if (threadIdx.x < TAPS_TOGETHER && tap < taps) {
    const i64 at = ((part * planes + plane) * w.channels + channel) * taps + tap;
    store(call.data[0] + at * i64(sizeof(Sum)), sums[threadIdx.x * SUMMING]);
  }
}

}  // namespace dagrun
