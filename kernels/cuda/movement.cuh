// Gather, assignment and addition by index arrays; the params are those of dagrun/codegen/movement.py.
//
// Gathering is done element by element. In the other two, a block of threads owns the places of the indexed operand
// whose number leaves a certain rest; it goes over all positions in order and serves those that point at its own, and
// each element of a place has one thread that serves it: so the last write wins, sums have the CPU's order, and no atomic
// operation is needed. Where the slowest dimension of the positions is one of the indexed operand too, its slices reach
// different places, so that ranges of them are gone over by blocks of their own.
//
// Op: Dense (the dtype that is moved); count() index arrays; index(k, call, offset), is_signed(k); add(Dense, Dense).
#pragma once
#include "dagrun.cuh"

namespace dagrun {

constexpr i64 OUT_OF_RANGE = 1;

template <class Op>
struct Movement {
  static constexpr int K = Op::count();
  const Call& call;
  i64 before, outer, further, length, indexed_step, dense_step, inner, first;
  i64 positions_, frees, afters;
  const i64 *steps, *axes, *before_words, *outer_words, *further_words;

  DAGRUN_METHOD explicit Movement(const Call& call_) : call(call_) {
    const i64* words = call.params;
    before = words[0], outer = words[1], further = words[2], length = words[3], indexed_step = words[4];
    dense_step = words[5], inner = words[6], first = words[7];
    steps = words + 8, axes = steps + K + 2, before_words = axes + 4 * K;
    outer_words = before_words + 3 * before, further_words = outer_words + (K + 3) * outer;
    positions_ = inner * positions(outer_words, outer, K + 2);
    frees = positions(before_words, before, 2);
    afters = length * positions(further_words, further, 2);
  }

  // Where position `number` points: offsets in the indexed and the dense operand, and the number of the place; false
  // where an index is out of range.
  DAGRUN_METHOD bool find(i64 number, i64& indexed, i64& dense, i64& place) const {
    i64 row, column, offsets[K + 2] = {};
    divide(number, inner, row, column);
    position<K + 2>(outer_words, outer, row, offsets);
    for (int k = 0; k < K + 2; k++) offsets[k] += column * steps[k];
    indexed = offsets[K], dense = offsets[K + 1], place = 0;
    for (int k = 0; k < K; k++) {
      const i64 bound = axes[4 * k], raw = Op::index(k, call, offsets[k]);
      const i64 index = raw < 0 && Op::is_signed(k) ? raw + axes[4 * k + 3] : raw;
      if (index < 0 || index >= bound) {
        fail(call.error, OUT_OF_RANGE, raw, bound, first + number, axes[4 * k + 2]);
        return false;
      }
      indexed += index * axes[4 * k + 1];
      place = place * bound + index;
    }
    return true;
  }

  // The offsets of free element `number` of a position.
  DAGRUN_METHOD void element(i64 number, i64& indexed, i64& dense) const {
    i64 free, after, row, column, offsets[2] = {};
    divide(number, afters, free, after);
    divide(after, length, row, column);
    position<2>(before_words, before, free, offsets);
    position<2>(further_words, further, row, offsets);
    indexed += offsets[0] + column * indexed_step;
    dense += offsets[1] + column * dense_step;
  }
};

// How many ranges of positions are independent of each other, and how many positions each has (the last: fewer).
constexpr i64 MOST_RANGES = 1024, RANGE = 256;

template <class Op>
DAGRUN_INLINE void ranges_of(const Movement<Op>& m, i64& ranges, i64& length) {
  constexpr int K = Op::count();
  const i64* slowest = m.outer > 0 ? m.outer_words + (K + 3) * (m.outer - 1) : nullptr;
  const i64 slices = slowest ? slowest[0] : m.inner, step = slowest ? slowest[1 + K] : m.steps[K];
  ranges = 1, length = m.positions_;
  if (step == 0 || m.positions_ == 0) return;
  const i64 slice = m.positions_ / slices, wanted = m.positions_ / RANGE;
  const i64 most = wanted < MOST_RANGES ? (wanted > 1 ? wanted : 1) : MOST_RANGES;
  const i64 each = (slices + most - 1) / most;
  ranges = (slices + each - 1) / each, length = each * slice;
}

template <class Op>
DAGRUN_INLINE void take(const Call& call) {
  const Movement<Op> m(call);
  if (m.inner == 0) return;
  if (m.length == 0) {  // nothing to move: only check
    for (i64 i = first_thread(); i < m.positions_; i += all_threads()) {
      i64 indexed, dense, place;
      m.find(i, indexed, dense, place);
    }
    return;
  }
  const i64 total = m.frees * m.positions_ * m.afters;
  for (i64 i = first_thread(); i < total; i += all_threads()) {  // in the order of the dense operand
    i64 rest, after, free, number, indexed, dense, place;
    divide(i, m.afters, rest, after);
    divide(rest, m.positions_, free, number);
    if (!m.find(number, indexed, dense, place)) continue;
    m.element(free * m.afters + after, indexed, dense);
    store(call.data[0] + dense, load<typename Op::Dense>(call.data[1] + indexed));
  }
}

template <class Op, bool ADDS>
DAGRUN_INLINE void put(const Call& call) {
  const Movement<Op> m(call);
  if (m.inner == 0) return;
  // Of some positions those that are served here, in order: where they point, and from where. Then how many each warp has.
  i64* targets = reinterpret_cast<i64*>(DAGRUN_SHARED);
  i64* sources = targets + blockDim.x;
  i64* counts = sources + blockDim.x;
  const unsigned warp = threadIdx.x / 32, warps = blockDim.x / 32, lower = (1u << threadIdx.x % 32) - 1;
  const i64 elements = m.length == 0 ? 0 : m.frees * m.afters;
  i64 ranges, length;
  ranges_of(m, ranges, length);
  const i64 owners = gridDim.x / ranges, owner = blockIdx.x / ranges, begin = blockIdx.x % ranges * length;
  const i64 after = begin + length < m.positions_ ? begin + length : m.positions_;
  for (i64 start = begin; start < after; start += blockDim.x) {
    const i64 number = start + threadIdx.x;
    i64 indexed = 0, dense = 0, place;
    bool ours = false;
    if (number < after && m.find(number, indexed, dense, place)) ours = place % owners == owner;
    const unsigned in_warp = __ballot_sync(0xffffffffu, ours);
    if (threadIdx.x % 32 == 0) counts[warp] = __popc(in_warp);
    __syncthreads();
    i64 before = 0, count = 0;
    for (unsigned w = 0; w < warps; w++) {
      if (w == warp) before = count;
      count += counts[w];
    }
    if (ours) {
      const i64 rank = before + __popc(in_warp & lower);
      targets[rank] = indexed;
      sources[rank] = dense;
    }
    __syncthreads();
    for (i64 k = 0; k < count; k++) {
      for (i64 i = threadIdx.x; i < elements; i += blockDim.x) {
        i64 there = targets[k], here = sources[k];
        m.element(i, there, here);
        char* target = call.data[0] + there;
        const auto x = load<typename Op::Dense>(call.data[1] + here);
        if constexpr (ADDS) {
          store(target, Op::add(load<typename Op::Dense>(target), x));
        } else {
          store(target, x);
        }
      }
    }
  }
}

template <class Op>
DAGRUN_INLINE void put(const Call& call) {
  put<Op, false>(call);
}

template <class Op>
DAGRUN_INLINE void add_at(const Call& call) {
  put<Op, true>(call);
}

}  // namespace dagrun
