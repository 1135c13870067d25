// Running sums and products: a thread for each line, element after element; params of dagrun/codegen/cumulative.py.
//
// Op: In, Out; convert(In) -> Out; combine(Out so far, Out).
#pragma once
#include "dagrun.cuh"

namespace dagrun {

template <class Op>
DAGRUN_INLINE void cumulate(const Call& call) {
  const i64* words = call.params;
  const i64 n = words[0], out_axis = words[1], in_axis = words[2], beside = words[3];
  if (n == 0) return;
  const i64 lines = beside * positions(words + 8, words[7], 2);
  for (i64 line = first_thread(); line < lines; line += all_threads()) {
    i64 row, column, at[2] = {};
    divide(line, beside, row, column);
    position<2>(words + 8, words[7], row, at);
    char* out = call.data[0] + at[0] + column * words[5];
    const char* in = call.data[1] + at[1] + column * words[6];
    typename Op::Out value = Op::convert(load<typename Op::In>(in));
    store(out, value);
    for (i64 i = 1; i < n; i++) {
      value = Op::combine(value, Op::convert(load<typename Op::In>(in + i * in_axis)));
      store(out + i * out_axis, value);
    }
  }
}

}  // namespace dagrun
