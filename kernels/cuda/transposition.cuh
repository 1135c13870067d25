// Copies whose two operands are contiguous along different dimensions: square tiles pass through shared memory, so that
// both are read and written in runs.
//
// Params: length of the dimension along which the output is contiguous, its stride in the input; length of the one along
// which the input is, its stride in the output; number of other dimensions, then of each, innermost first: size, stride in
// the output, in the input. Op: Dense.
#pragma once
#include "dagrun.cuh"

namespace dagrun {

template <class Op>
DAGRUN_INLINE void transpose(const Call& call) {
  using Dense = typename Op::Dense;
  constexpr int SIDE = sizeof(Dense) < 4 ? 64 : 32, ROW = SIDE + 1;  // a column then lies in different banks
  constexpr i64 ITEM = sizeof(Dense);
  Dense* tile = reinterpret_cast<Dense*>(DAGRUN_SHARED);
  const i64 *words = call.params, *others = words + 5;
  const i64 across = words[0], in_step = words[1], down = words[2], out_step = words[3], dims = words[4];
  const i64 wide = (across + SIDE - 1) / SIDE, high = (down + SIDE - 1) / SIDE;
  const i64 jobs = wide * high * positions(others, dims, 2);
  const int x = threadIdx.x % SIDE, first = threadIdx.x / SIDE, rows = blockDim.x / SIDE;
  for (i64 job = blockIdx.x; job < jobs; job += gridDim.x) {
    i64 rest, other, left, top, at[2] = {};
    divide(job, wide, rest, left);
    divide(rest, high, other, top);
    position<2>(others, dims, other, at);
    left *= SIDE, top *= SIDE;
    const char* in = call.data[1] + at[1] + left * in_step + (top + x) * ITEM;
    char* out = call.data[0] + at[0] + (left + x) * ITEM + top * out_step;
#pragma unroll 4
    for (int y = first; y < SIDE; y += rows) {
      if (left + y < across && top + x < down) tile[y * ROW + x] = load<Dense>(in + y * in_step);
    }
    __syncthreads();
#pragma unroll 4
    for (int y = first; y < SIDE; y += rows) {
      if (left + x < across && top + y < down) store(out + y * out_step, tile[x * ROW + y]);
    }
    __syncthreads();
  }
}

}  // namespace dagrun
