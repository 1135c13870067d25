// Running sums and products; params of dagrun/codegen/cumulative.py. A thread goes over a line, element after element; or,
// where contiguous lines are few, the first of a block of threads, which bring its elements and take what it has made.
//
// Op: In, Out; convert(In) -> Out; combine(Out so far, Out).
#pragma once
#include "dagrun.cuh"

namespace dagrun {

// As in dagrun/codegen/cuda/cumulative.py.
constexpr i64 FEW_LINES = 4096, SHORT_AXIS = 64;
constexpr int TILE = 1024;

// Puts elements [0, count) in the place of what they are combined to, `value` being all before them; get(i), put(i, x).
template <class Op, class Get, class Put>
DAGRUN_INLINE void run(typename Op::Out& value, bool begins, i64 count, Get get, Put put) {
  constexpr int AHEAD = 8;  // elements that are read before the first of them is written
  typename Op::Out some[AHEAD];
  for (i64 i = 0; i < count; i += AHEAD) {
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
      if (i + k < count) some[k] = get(i + k);
    }
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
      if (i + k >= count) break;
      value = begins && i + k == 0 ? some[k] : Op::combine(value, some[k]);
      put(i + k, value);
    }
  }
}

template <class Op>
DAGRUN_INLINE void cumulate(const Call& call) {
  using In = typename Op::In;
  using Out = typename Op::Out;
  const i64* words = call.params;
  const i64 n = words[0], out_axis = words[1], in_axis = words[2], beside = words[3];
  if (n == 0) return;
  const i64 lines = beside * positions(words + 8, words[7], 2);
  const bool contiguous = out_axis == sizeof(Out) && in_axis == sizeof(In);
  const bool by_blocks = contiguous && lines < FEW_LINES && n >= SHORT_AXIS;
  Out* tile = reinterpret_cast<Out*>(DAGRUN_SHARED);
  for (i64 line = by_blocks ? blockIdx.x : first_thread(); line < lines; line += by_blocks ? gridDim.x : all_threads()) {
    i64 row, column, at[2] = {};
    divide(line, beside, row, column);
    position<2>(words + 8, words[7], row, at);
    char* out = call.data[0] + at[0] + column * words[5];
    const char* in = call.data[1] + at[1] + column * words[6];
    Out value{};
    if (!by_blocks) {
      run<Op>(
          value, true, n, [&](i64 i) { return Op::convert(load<In>(in + i * in_axis)); },
          [&](i64 i, Out x) { store(out + i * out_axis, x); });
      continue;
    }
    for (i64 begin = 0; begin < n; begin += TILE) {
      const int count = int(n - begin < TILE ? n - begin : TILE);
#pragma unroll 8
      for (int i = threadIdx.x; i < count; i += blockDim.x) {
        tile[i] = Op::convert(load<In>(in + (begin + i) * i64(sizeof(In))));
      }
      __syncthreads();
      if (threadIdx.x == 0) {
        run<Op>(value, begin == 0, count, [&](i64 i) { return tile[i]; }, [&](i64 i, Out x) { tile[i] = x; });
      }
      __syncthreads();
      for (int i = threadIdx.x; i < count; i += blockDim.x) store(out + (begin + i) * i64(sizeof(Out)), tile[i]);
    }
  }
}

}  // namespace dagrun
