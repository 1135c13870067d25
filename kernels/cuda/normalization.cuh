// Normalisation and its gradient: a block of threads for each kept index; params of dagrun/codegen/normalization.py.
//
// A group of lanes takes the sum of a segment, as the vectors of the CPU do; several groups work at a time, and the sums
// of segments are added in order.
//
// Op: Dtype, Wide (in which is computed); slope(var + eps) -> Wide; lanes(); weights().
#pragma once
#include "lines.cuh"

namespace dagrun {

enum class Weighted { NONE, KEPT, SEGMENTS, ELEMENTS };  // what has values of its own

template <class Op>
struct Normalization {
  using Dtype = typename Op::Dtype;
  using Wide = typename Op::Wide;
  static constexpr Weighted WEIGHTS = Op::weights();
  const Call& call;
  i64 kept, segments, length, period;
  Wide eps, count;

  DAGRUN_METHOD explicit Normalization(const Call& call_) : call(call_) {
    kept = call.params[0], segments = call.params[1], length = call.params[2];
    eps = Wide(bits_of<f64>(call.params[3])), count = Wide(segments * length), period = call.params[10];
  }
  // The first element of a segment of operand 0 (y or x'), 1 (x) or 2 (g), whose memory is `base`.
  DAGRUN_METHOD char* segment(char* base, int operand, i64 k, i64 s) const {
    return base + k * call.params[4 + 2 * operand] + s * call.params[5 + 2 * operand];
  }
  DAGRUN_METHOD static Wide element(const char* segment, i64 i) {
    return widen(load<Dtype>(segment + i * i64(sizeof(Dtype))));
  }
  DAGRUN_METHOD static Wide of(const char* base, i64 k) { return load<Wide>(base + k * i64(sizeof(Wide))); }
  DAGRUN_METHOD static void put(char* base, i64 k, Wide value) { store(base + k * i64(sizeof(Wide)), value); }

  // w or b at an element.
  DAGRUN_METHOD Wide weight(const char* base, i64 k, i64 s, i64 i) const {
    if constexpr (WEIGHTS == Weighted::KEPT) return of(base, k);
    return of(base, WEIGHTS == Weighted::SEGMENTS ? k % period * segments + s : k % period * length + i);
  }

  // SUMS sums over the elements of a kept index; `terms(segment, element, results)` gives the terms, and
  // `weigh(segment, sums)` makes of the sums of a segment what is added.
  template <int SUMS, class Terms, class Weigh>
  DAGRUN_METHOD void sums(Terms terms, Weigh weigh, Wide (&results)[SUMS]) const {
    constexpr int LANES = Op::lanes();
    Wide* totals = reinterpret_cast<Wide*>(DAGRUN_SHARED);
    const int groups = blockDim.x / LANES, group = threadIdx.x / LANES;
    const int lane = threadIdx.x % LANES, first = threadIdx.x % 32 - lane;
    const u32 mask = LANES == 32 ? 0xffffffffu : ((1u << (LANES % 32)) - 1) << first;
    const i64 whole = length & -LANES, rest = length - whole;
    for (int k = 0; k < SUMS; k++) results[k] = 0;
    for (i64 start = 0; start < segments; start += groups) {
      const i64 s = start + group;
      if (s < segments) {
        Wide vector[SUMS] = {}, own[SUMS] = {}, left[SUMS] = {}, term[SUMS];
#pragma unroll 4
        for (i64 i = lane; i < whole; i += LANES) {
          terms(s, i, term);
          for (int k = 0; k < SUMS; k++) vector[k] = vector[k] + term[k];
        }
        if (lane < rest) terms(s, whole + lane, own);
        for (int k = 0; k < SUMS; k++) {
          for (int half = LANES / 2; half > 0; half /= 2) {
            vector[k] = vector[k] + __shfl_sync(mask, vector[k], first + (lane + half) % LANES);
          }
          for (int i = 0; i < rest; i++) left[k] = left[k] + __shfl_sync(mask, own[k], first + i);
          if (lane == 0) totals[group * SUMS + k] = vector[k] + left[k];
        }
      }
      __syncthreads();
      const i64 done = segments - start < groups ? segments - start : groups;
      for (i64 i = 0; i < done; i++) {  // by every thread, so that all know the sums
        Wide own[SUMS];
        for (int k = 0; k < SUMS; k++) own[k] = totals[i * SUMS + k];
        weigh(start + i, own);
        for (int k = 0; k < SUMS; k++) results[k] = results[k] + own[k];
      }
      __syncthreads();
    }
  }

  template <int SUMS, class Terms>
  DAGRUN_METHOD void sums(Terms terms, Wide (&results)[SUMS]) const {
    sums(terms, [](i64, Wide(&)[SUMS]) {}, results);
  }

  // The elements of a kept index of operand 0: value(segment, element).
  template <class Value>
  DAGRUN_METHOD void write(char* base, i64 k, Value value) const {
    for (i64 n = threadIdx.x; n < segments * length; n += blockDim.x) {
      i64 s, i;
      divide(n, length, s, i);
      store(segment(base, 0, k, s) + i * i64(sizeof(Dtype)), narrow<Dtype>(value(s, i)));
    }
  }
};

// y, mean, var, x [, w, b]
template <class Op>
DAGRUN_INLINE void normalize(const Call& call) {
  using Wide = typename Op::Wide;
  constexpr Weighted WEIGHTS = Op::weights();
  const Normalization<Op> n(call);
  Normalization<Op> run(call);  // what is summed: however short the segments, they follow each other
  if constexpr (WEIGHTS == Weighted::SEGMENTS) run.length = n.segments * n.length, run.segments = 1;
  for (i64 k = blockIdx.x; k < n.kept; k += gridDim.x) {
    auto x = [&](i64 s, i64 i) { return n.element(n.segment(call.data[3], 1, k, s), i); };
    Wide mean[1], var[1];
    run.sums([&](i64 s, i64 i, Wide(&term)[1]) { term[0] = x(s, i); }, mean);
    mean[0] = mean[0] / n.count;
    run.sums(
        [&](i64 s, i64 i, Wide(&term)[1]) {
          const Wide gap = x(s, i) - mean[0];
          term[0] = gap * gap;
        },
        var);
    var[0] = var[0] / n.count;
    if (threadIdx.x == 0) {
      n.put(call.data[1], k, mean[0]);
      n.put(call.data[2], k, var[0]);
    }
    const Wide slope = Op::slope(var[0] + n.eps);
    n.write(call.data[0], k, [&](i64 s, i64 i) {
      const Wide gap = x(s, i) - mean[0];
      if constexpr (WEIGHTS == Weighted::NONE) {
        return Wide(gap * slope);
      } else {
        const Wide w = n.weight(call.data[4], k, s, i);
        const Wide made = WEIGHTS == Weighted::ELEMENTS ? Wide(gap * slope) * w : gap * Wide(slope * w);
        return Wide(made + n.weight(call.data[5], k, s, i));
      }
    });
  }
}

// x', g, x, mean, var; or x', w', b', g, x, mean, var, w
template <class Op>
DAGRUN_INLINE void normalize_back(const Call& call) {
  using Wide = typename Op::Wide;
  constexpr Weighted WEIGHTS = Op::weights();
  constexpr int FIRST = WEIGHTS == Weighted::NONE ? 1 : 3;
  const Normalization<Op> n(call);
  const i64 block = WEIGHTS == Weighted::ELEMENTS ? call.params[11] : 1;  // kept indices of a block of threads
  for (i64 first = blockIdx.x * block; first < n.kept; first += gridDim.x * block) {
    for (i64 k = first; k < first + block && k < n.kept; k++) {
      const Wide mean = n.of(call.data[FIRST + 2], k), slope = Op::slope(n.of(call.data[FIRST + 3], k) + n.eps);
      auto g = [&](i64 s, i64 i) { return n.element(n.segment(call.data[FIRST], 2, k, s), i); };
      auto standard = [&](i64 s, i64 i) {
        return Wide(Wide(n.element(n.segment(call.data[FIRST + 1], 1, k, s), i) - mean) * slope);
      };
      Wide sums[2], scale = slope;
      n.sums(
          [&](i64 s, i64 i, Wide(&term)[2]) {
            term[0] = g(s, i);
            if constexpr (WEIGHTS == Weighted::ELEMENTS) term[0] = term[0] * n.weight(call.data[7], k, s, i);
            term[1] = term[0] * standard(s, i);
          },
          [&](i64 s, Wide(&own)[2]) {
            if constexpr (WEIGHTS == Weighted::SEGMENTS) {
              if (threadIdx.x == 0) {
                n.put(call.data[1], k * n.segments + s, own[1]);
                n.put(call.data[2], k * n.segments + s, own[0]);
              }
              const Wide w = n.weight(call.data[7], k, s, 0);
              own[0] = w * own[0], own[1] = w * own[1];
            }
          },
          sums);
      if constexpr (WEIGHTS == Weighted::KEPT) {
        if (threadIdx.x == 0) {
          n.put(call.data[1], k, sums[1]);
          n.put(call.data[2], k, sums[0]);
        }
        scale = slope * n.of(call.data[7], k);
      }
      const Wide plain = sums[0] / n.count, weighted = sums[1] / n.count;
      n.write(call.data[0], k, [&](i64 s, i64 i) {
        Wide own = g(s, i);
        if constexpr (WEIGHTS == Weighted::ELEMENTS) {  // a thread has the same elements of each kept index of a block
          const i64 place = k / block * n.length + i;
          const Wide zero = 0;
          const Wide w = k == first ? zero : n.of(call.data[1], place), b = k == first ? zero : n.of(call.data[2], place);
          n.put(call.data[1], place, w + Wide(own * standard(s, i)));
          n.put(call.data[2], place, b + own);
        }
        if constexpr (WEIGHTS == Weighted::SEGMENTS || WEIGHTS == Weighted::ELEMENTS) {
          own = own * n.weight(call.data[7], k, s, i);
        }
        return Wide(scale * Wide(Wide(own - plain) - Wide(standard(s, i) * weighted)));
      });
    }
  }
}

}  // namespace dagrun
