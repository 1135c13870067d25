// Gather, assignment and addition by index arrays; the params are those of dagrun/codegen/movement.py.
//
// Assignments and sums go one of two ways; both serve the positions that point at a place in their order: so the last
// write wins, sums have the CPU's order, and no atomic operation is needed.
//
// - One launch (`put`, `add_at`), where positions are few: a block of threads owns the places whose number leaves a certain
//   rest; it goes over all positions in order and serves those that point at its own, and each element of a place has one
//   thread that serves it. Where the slowest dimension of the positions is one of the indexed operand too, its slices reach
//   different places, so that ranges of them are gone over by blocks of their own.
// - Sorted: positions are made items, by the number of the place that each points at (`place_items`), and sorted (see
//   ordering.cuh). Each place then has a run of items in order, whose last one is assigned (`put_sorted`), or which are
//   added (`add_sorted`) by a thread for each element, or, where places have one element, by a warp for each 32 items.
//
// Op: Dense (the dtype that is moved); count() index arrays; index(k, call, offset), is_signed(k); add(Dense, Dense).
#pragma once
#include "dagrun.cuh"

namespace dagrun {

constexpr i64 OUT_OF_RANGE = 1;

struct alignas(16) Sixteen {  // bytes
  u64 low, high;
};

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

  // How many threads copy a run of contiguous elements together, each 16 bytes of it at a time; 1: elements go one by one.
  DAGRUN_METHOD int group() const {
    constexpr i64 item = sizeof(typename Op::Dense);
    if (indexed_step != item || dense_step != item || length * item < 32) return 1;
    int threads = 2;
    while (threads < 32 && threads * 16 < length * item) threads *= 2;
    return threads;
  }

  // Where position `number` points: offsets in the indexed and the dense operand, and the number of the place, which no
  // other place of the indexed operand has; false where an index is out of range.
  DAGRUN_METHOD bool find(i64 number, i64& indexed, i64& dense, i64& place) const {
    i64 row = 0, column = number, offsets[K + 2];
    if (outer > 0) divide(number, inner, row, column);
    for (int k = 0; k < K + 2; k++) offsets[k] = column * steps[k];
    place = steps[K] != 0 ? column : 0;
    const i64* words = outer_words;
#pragma unroll 1
    for (i64 d = 0; d < outer; d++, words += K + 3) {
      i64 at = row;
      if (d + 1 < outer) divide(row, words[0], row, at);
      for (int k = 0; k < K + 2; k++) offsets[k] += at * words[1 + k];
      if (words[1 + K] != 0) place = place * words[0] + at;
    }
    indexed = offsets[K], dense = offsets[K + 1];
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

  // The offset in the dense operand of position `number`.
  DAGRUN_METHOD i64 dense_at(i64 number) const {
    i64 row = 0, column = number, offsets[K + 2] = {};
    if (outer > 0) divide(number, inner, row, column);
    position<K + 2>(outer_words, outer, row, offsets);
    return offsets[K + 1] + column * steps[K + 1];
  }

  // The offsets of free element `number` of a position.
  DAGRUN_METHOD void element(i64 number, i64& indexed, i64& dense) const {
    i64 free = 0, after = number, row = 0, column, offsets[2] = {};
    if (before > 0) {
      divide(number, afters, free, after);
      position<2>(before_words, before, free, offsets);
    }
    column = after;
    if (further > 0) {
      divide(after, length, row, column);
      position<2>(further_words, further, row, offsets);
    }
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

// Copies elements `first`, `first + step`, ... of a run of `count` contiguous ones, 16 bytes at a time where both runs lie
// so, for the threads of a group, of which `first` is this one's number and `step` how many there are.
template <class Dense>
DAGRUN_INLINE void copy_run(char* to, const char* from, i64 count, i64 first, i64 step) {
  constexpr i64 WIDE = 16 / sizeof(Dense);
  i64 done = 0;
  if (((reinterpret_cast<u64>(to) | reinterpret_cast<u64>(from)) & 15) == 0) {
    done = count / WIDE * WIDE;
    for (i64 i = first; i < done / WIDE; i += step) {
      reinterpret_cast<Sixteen*>(to)[i] = reinterpret_cast<const Sixteen*>(from)[i];
    }
  }
  for (i64 i = done + first; i < count; i += step) {
    store(to + i * i64(sizeof(Dense)), load<Dense>(from + i * i64(sizeof(Dense))));
  }
}

// A group of threads, at most a warp, for each run of contiguous elements.
template <class Op>
DAGRUN_INLINE void take_runs(const Call& call, const Movement<Op>& m, int group) {
  const i64 runs = positions(m.further_words, m.further, 2), total = m.frees * m.positions_ * runs;
  i64 job, lane;
  divide(first_thread(), group, job, lane);
  for (; job < total; job += all_threads() / group) {
    i64 rest = job, run = 0, free = 0, number, indexed, dense, place;
    if (m.further > 0) divide(job, runs, rest, run);
    number = rest;
    if (m.before > 0) divide(rest, m.positions_, free, number);
    if (!m.find(number, indexed, dense, place)) continue;
    m.element(free * m.afters + run * m.length, indexed, dense);
    copy_run<typename Op::Dense>(call.data[0] + dense, call.data[1] + indexed, m.length, lane, group);
  }
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
  const int group = m.group();
  if (group > 1) {
    take_runs<Op>(call, m, group);
    return;
  }
  const i64 total = m.frees * m.positions_ * m.afters;
  for (i64 i = first_thread(); i < total; i += all_threads()) {  // in the order of the dense operand
    i64 rest = i, after = 0, free = 0, number, indexed, dense, place;
    if (m.afters > 1) divide(i, m.afters, rest, after);
    number = rest;
    if (m.before > 0) divide(rest, m.positions_, free, number);
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
    if (number < after && m.find(number, indexed, dense, place)) {
      i64 turn, rest;
      divide(place, owners, turn, rest);
      ours = rest == owner;
    }
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

// ---- sorted

// Data: items, index arrays.
template <class Op>
DAGRUN_INLINE void place_items(const Call& call) {
  const Movement<Op> m(call);
  u64* items = reinterpret_cast<u64*>(call.data[0]);
  for (i64 i = first_thread(); i < m.positions_; i += all_threads()) {
    i64 indexed, dense, place;
    if (!m.find(i, indexed, dense, place)) place = 0;  // what follows is done for nothing, but with an item at each place
    items[i] = u64(place) << 32 | u64(i);
  }
}

DAGRUN_INLINE bool same_place(u64 a, u64 b) { return (a ^ b) >> 32 == 0; }

// Elements of a place that a group of threads serves at a time, each some of them.
constexpr int EACH = 4, AHEAD = 8;

// Data: indexed, dense, items in order, index arrays. A group of threads for each item and some of its elements, of which
// only those go on whose item is the first of its place (of an assignment: the last).
template <class Op, bool ADDS>
DAGRUN_INLINE void serve_runs(const Call& call) {
  using Dense = typename Op::Dense;
  const Movement<Op> m(call);
  const u64* items = reinterpret_cast<const u64*>(call.data[2]);
  const i64 elements = m.frees * m.afters, count = m.positions_;
  int group = 1;
  while (group < 32 && group < elements) group *= 2;
  const i64 chunks = (elements + group * EACH - 1) / (group * EACH);
  i64 job, lane;
  divide(first_thread(), group, job, lane);
  for (; job < count * chunks; job += all_threads() / group) {
    i64 rank, chunk, indexed, dense, place;
    divide(job, chunks, rank, chunk);
    const u64 item = items[rank];
    const i64 next = ADDS ? rank - 1 : rank + 1;
    if (next >= 0 && next < count && same_place(item, items[next])) continue;
    if (!m.find(u32(item), indexed, dense, place)) continue;
    i64 there[EACH], here[EACH];
    const i64 begin = chunk * group * EACH + lane;
#pragma unroll
    for (int k = 0; k < EACH; k++) {
      there[k] = indexed, here[k] = 0;
      if (begin + k * group < elements) m.element(begin + k * group, there[k], here[k]);
    }
    if constexpr (!ADDS) {
#pragma unroll
      for (int k = 0; k < EACH; k++) {
        if (begin + k * group < elements) store(call.data[0] + there[k], load<Dense>(call.data[1] + dense + here[k]));
      }
    } else {
      Dense total[EACH] = {};
#pragma unroll
      for (int k = 0; k < EACH; k++) {
        if (begin + k * group < elements) total[k] = load<Dense>(call.data[0] + there[k]);
      }
      bool more = true;
      for (i64 start = rank; more; start += AHEAD) {  // many loads under way before the first sum
        u64 ahead[AHEAD];
        Dense x[AHEAD][EACH];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) ahead[i] = start + i < count ? items[start + i] : ~item;
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
          more = same_place(item, ahead[i]);
          const char* from = call.data[1] + (more ? m.dense_at(u32(ahead[i])) : dense);
#pragma unroll
          for (int k = 0; k < EACH; k++) {
            if (more && begin + k * group < elements) x[i][k] = load<Dense>(from + here[k]);
          }
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
#pragma unroll
          for (int k = 0; k < EACH; k++) {
            if (same_place(item, ahead[i]) && begin + k * group < elements) total[k] = Op::add(total[k], x[i][k]);
          }
        }
      }
#pragma unroll
      for (int k = 0; k < EACH; k++) {
        if (begin + k * group < elements) store(call.data[0] + there[k], total[k]);
      }
    }
  }
}

// The value of thread `lane` of the warp, of any dtype.
template <class Dense>
DAGRUN_INLINE Dense value_of(Dense own, int lane) {
  if constexpr (sizeof(Dense) == 8) {
    return bits_of<Dense>(__shfl_sync(0xffffffffu, bits_of<u64>(own), lane));
  } else if constexpr (sizeof(Dense) == 4) {
    return bits_of<Dense>(__shfl_sync(0xffffffffu, bits_of<u32>(own), lane));
  } else if constexpr (sizeof(Dense) == 2) {
    return bits_of<Dense>(u16(__shfl_sync(0xffffffffu, u32(bits_of<u16>(own)), lane)));
  } else {
    return bits_of<Dense>(u8(__shfl_sync(0xffffffffu, u32(bits_of<u8>(own)), lane)));
  }
}

// Places of one element. A warp takes 32 items: the threads with the first items of their places add what the threads
// behind them hold. The last of these runs may go on behind the 32 items; then the warp reads on.
template <class Op>
DAGRUN_INLINE void add_single(const Call& call) {
  using Dense = typename Op::Dense;
  const Movement<Op> m(call);
  const u64* items = reinterpret_cast<const u64*>(call.data[2]);
  const i64 count = m.positions_;
  i64 free_indexed = 0, free_dense = 0;
  m.element(0, free_indexed, free_dense);
  const int lane = threadIdx.x % 32;
  const char* from = call.data[1] + free_dense;
  for (i64 base = first_thread() - lane; base < count; base += all_threads()) {
    const bool inside = base + lane < count;
    const u64 item = inside ? items[base + lane] : 0;
    const bool leads = inside && (base + lane == 0 || !same_place(item, items[base + lane - 1]));
    const u32 leaders = __ballot_sync(0xffffffffu, leads), reached = __ballot_sync(0xffffffffu, inside);
    if (leaders == 0) continue;
    const Dense own = inside ? load<Dense>(from + m.dense_at(u32(item))) : Dense();
    Dense total = Dense();
    char* target = nullptr;
    if (leads) {
      i64 indexed, dense, place;
      if (m.find(u32(item), indexed, dense, place)) {
        target = call.data[0] + indexed + free_indexed;
        total = Op::add(load<Dense>(target), own);
      }
    }
    const u32 behind = lane == 31 ? 0 : leaders >> (lane + 1);
    const int last = __popc(reached) - 1, room = last - lane;
    int length = leads ? (behind != 0 ? __popc((behind & (0u - behind)) - 1) : room) : 0;  // behind the first
    for (int k = 1; __ballot_sync(0xffffffffu, k <= length) != 0; k++) {
      const Dense x = value_of(own, (lane + k) % 32);
      if (k <= length) total = Op::add(total, x);
    }
    const bool longest = leads && behind == 0;
    const u64 going = __shfl_sync(0xffffffffu, item, last);
    bool more = base + 32 < count;
    for (i64 start = base + 32; more; start += 32 * EACH) {
      Dense x[EACH];
      u32 same[EACH];
#pragma unroll
      for (int k = 0; k < EACH; k++) {
        const i64 at = start + 32 * k + lane;
        const u64 next = at < count ? items[at] : ~going;
        const bool belongs = same_place(next, going);
        same[k] = __ballot_sync(0xffffffffu, belongs);
        x[k] = belongs ? load<Dense>(from + m.dense_at(u32(next))) : Dense();
      }
#pragma unroll
      for (int k = 0; k < EACH; k++) {
        const int found = __popc(same[k]);
        for (int i = 0; i < found; i++) {
          const Dense value = value_of(x[k], i);
          if (longest) total = Op::add(total, value);
        }
        more = found == 32;
      }
    }
    if (target != nullptr) store(target, total);
  }
}

template <class Op>
DAGRUN_INLINE void put_sorted(const Call& call) {
  serve_runs<Op, false>(call);
}

template <class Op>
DAGRUN_INLINE void add_sorted(const Call& call) {
  const Movement<Op> m(call);
  if (m.frees * m.afters == 1) {
    add_single<Op>(call);
  } else {
    serve_runs<Op, true>(call);
  }
}

}  // namespace dagrun
