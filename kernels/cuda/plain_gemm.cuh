// Products of dtypes that BLAS does not take, a thread for each element; params of dagrun/codegen/plain_gemm.py.
//
// Op: Dtype, Sum (in which is summed); convert(Dtype) -> Sum; multiply_add(total, a, b); finish(Sum) -> Dtype.
#pragma once
#include "dagrun.cuh"

namespace dagrun {

template <class Op>
DAGRUN_INLINE void plain_gemm(const Call& call) {
  using Dtype = typename Op::Dtype;
  const i64* w = call.params;
  const i64 m = w[0], n = w[1], depth = w[2], dims = w[10];
  const i64 total = m == 0 ? 0 : m * n * positions(w + 11, dims, 3);
  for (i64 number = first_thread(); number < total; number += all_threads()) {
    i64 rest, batch, row, column, at[3] = {};
    divide(number, n, rest, column);
    divide(rest, m, batch, row);
    position<3>(w + 11, dims, batch, at);
    const char* a = call.data[1] + at[1] + row * w[5];
    const char* b = call.data[2] + at[2] + column * w[8];
    typename Op::Sum sum = Op::zero();
    for (i64 k = 0; k < depth; k++) {
      sum = Op::multiply_add(sum, Op::convert(load<Dtype>(a + k * w[6])), Op::convert(load<Dtype>(b + k * w[7])));
    }
    store(call.data[0] + at[0] + row * w[3] + column * w[4], Op::finish(sum));
  }
}

}  // namespace dagrun
