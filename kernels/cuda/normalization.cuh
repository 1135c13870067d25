// Normalisation and its gradient; params of dagrun/codegen/normalization.py.
//
// A team of threads goes over a kept index: one thread where segments are single elements (then kept indices mostly lie
// side by side), a group of lanes where there is one segment that is short or one of many (and that they can keep), else a
// block. The lanes of a group take the sum of a segment, as the vectors of the CPU do; of a block that sums one segment all
// threads compute its terms. The sums of segments are added in order.
//
// Op: Dtype, Wide (in which is computed); slope(var + eps) -> Wide; lanes(); weights().
#pragma once
#include "lines.cuh"

namespace dagrun {

enum class Weighted { NONE, KEPT, SEGMENTS, ELEMENTS };  // what has values of its own

// As in dagrun/codegen/cuda/normalization.py.
constexpr i64 FEW_KEPT = 2048, LONG_SEGMENT = 1024;  // kept indices and elements from which groups and blocks are better
constexpr int SEGMENTS_AT_A_TIME = 1024, CACHE_BYTES = 32768;

template <class Op>
struct Normalization {
  using Dtype = typename Op::Dtype;
  using Wide = typename Op::Wide;
  static constexpr Weighted WEIGHTS = Op::weights();
  const Call& call;
  i64 kept, segments, length, period;
  i64 runs, run;  // what is summed: so many runs, so long
  Wide eps, count;

  DAGRUN_METHOD explicit Normalization(const Call& call_, bool forward) : call(call_) {
    kept = call.params[0], length = call.params[2], period = call.params[10];
    segments = WEIGHTS == Weighted::ELEMENTS ? 1 : call.params[1];
    eps = Wide(bits_of<f64>(call.params[3])), count = Wide(segments * length);
    const bool joined = forward && WEIGHTS == Weighted::SEGMENTS;  // however short the segments, they follow each other
    runs = joined ? 1 : segments, run = joined ? segments * length : length;
  }
  // The first element of kept index k in operand 0 (y or x'), 1 (x) or 2 (g), whose memory is `base`.
  DAGRUN_METHOD char* start(char* base, int operand, i64 k) const { return base + k * call.params[4 + 2 * operand]; }
  DAGRUN_METHOD char* place(char* start, int operand, i64 s, i64 i) const {
    return start + s * call.params[5 + 2 * operand] + i * i64(sizeof(Dtype));
  }
  DAGRUN_METHOD static Wide of(const char* base, i64 k) { return load<Wide>(base + k * i64(sizeof(Wide))); }
  DAGRUN_METHOD static void put(char* base, i64 k, Wide value) { store(base + k * i64(sizeof(Wide)), value); }
  // The first of a kept index's values of w and b.
  DAGRUN_METHOD i64 weight(i64 k) const {
    if constexpr (WEIGHTS == Weighted::KEPT) return k;
    i64 repetition, row;
    divide(k, period, repetition, row);
    return row * (WEIGHTS == Weighted::SEGMENTS ? segments : length);
  }
};

// ---- teams. `sums(terms, weigh, results)`: SUMS sums over the elements of a kept index; `terms(run, element, results)`
// gives the terms, and `weigh(run, first, sums)` makes of the sums of a run what is added, for one thread of several as the
// `first`. `each(enter, body)`: `body(segment, element)` by one thread, which has called `enter(segment)`.

template <class Op>
struct Lanes {
  using Wide = typename Op::Wide;
  static constexpr int LANES = Op::lanes();
  int group = threadIdx.x / LANES, lane = threadIdx.x % LANES;

  // The sums of a run, for every lane of the group; `terms(element, results)` gives the terms.
  template <int SUMS, class Terms>
  DAGRUN_METHOD void run_sums(i64 run, Terms terms, Wide (&results)[SUMS]) const {
    const i64 whole = run & -LANES, rest = run - whole;
    Wide vector[SUMS] = {}, own[SUMS] = {}, left[SUMS] = {}, term[SUMS];
#pragma unroll 8
    for (i64 i = lane; i < whole; i += LANES) {
      terms(i, term);
      for (int k = 0; k < SUMS; k++) vector[k] = vector[k] + term[k];
    }
    if (lane < rest) terms(whole + lane, own);
    for (int k = 0; k < SUMS; k++) {
      for (int i = 0; i < rest; i++) left[k] = left[k] + from_lane<LANES>(own[k], i);
      results[k] = halved<Op>(vector[k]) + left[k];
    }
  }
};

template <class Op>
struct ByThread {
  using Wide = typename Op::Wide;
  const Normalization<Op>& n;

  DAGRUN_METHOD i64 first() const { return first_thread(); }
  DAGRUN_METHOD i64 step() const { return all_threads(); }
  DAGRUN_METHOD bool leads() const { return true; }
  static constexpr bool KEEPS = false;
  template <int SUMS, class Terms, class Weigh>
  DAGRUN_METHOD void sums(Terms terms, Weigh weigh, Wide (&results)[SUMS]) const {
    for (int k = 0; k < SUMS; k++) results[k] = 0;
#pragma unroll 8
    for (i64 s = 0; s < n.segments; s++) {
      Wide term[SUMS];
      terms(s, 0, term);
      weigh(s, true, term);
      for (int k = 0; k < SUMS; k++) results[k] = results[k] + term[k];
    }
  }
  template <class Enter, class Body>
  DAGRUN_METHOD void each(Enter enter, Body body) const {
#pragma unroll 4
    for (i64 s = 0; s < n.segments; s++) {
      enter(s);
      body(s, 0);
    }
  }
};

template <class Op>
struct ByGroup : Lanes<Op> {
  using Wide = typename Op::Wide;
  using Dtype = typename Op::Dtype;
  const Normalization<Op>& n;

  DAGRUN_METHOD explicit ByGroup(const Normalization<Op>& n_) : n(n_) {}
  DAGRUN_METHOD i64 first() const { return first_thread() / Op::lanes(); }
  DAGRUN_METHOD i64 step() const { return all_threads() / Op::lanes(); }
  DAGRUN_METHOD bool leads() const { return this->lane == 0; }
  static constexpr bool KEEPS = true;
  // Where the group keeps array `number`. A lane reads what it has written, and only that.
  DAGRUN_METHOD Dtype* keep(int number) const {
    const int groups = blockDim.x / Op::lanes();
    return reinterpret_cast<Dtype*>(DAGRUN_SHARED) + (number * groups + this->group) * int(n.length);
  }
  template <int SUMS, class Terms, class Weigh>
  DAGRUN_METHOD void sums(Terms terms, Weigh weigh, Wide (&results)[SUMS]) const {
    this->run_sums(n.length, [&](i64 i, Wide(&term)[SUMS]) { terms(0, i, term); }, results);
    weigh(0, this->lane == 0, results);
    for (int k = 0; k < SUMS; k++) results[k] = Wide(0) + results[k];
  }
  template <class Enter, class Body>
  DAGRUN_METHOD void each(Enter enter, Body body) const {
    enter(0);
#pragma unroll 4
    for (i64 i = this->lane; i < n.length; i += Op::lanes()) body(0, i);
  }
};

template <class Op>
struct ByBlock : Lanes<Op> {
  using Wide = typename Op::Wide;
  const Normalization<Op>& n;

  DAGRUN_METHOD explicit ByBlock(const Normalization<Op>& n_) : n(n_) {}
  DAGRUN_METHOD i64 first() const { return blockIdx.x; }
  DAGRUN_METHOD i64 step() const { return gridDim.x; }
  DAGRUN_METHOD bool leads() const { return threadIdx.x == 0; }
  static constexpr bool KEEPS = false;
  template <int SUMS, class Terms, class Weigh>
  DAGRUN_METHOD void sums(Terms terms, Weigh weigh, Wide (&results)[SUMS]) const {
    if (n.runs == 1) {
      const Together<Op> line{n.run};
      for (int k = 0; k < SUMS; k++) {
        results[k] = line.sum([&](i64 i) {
          Wide term[SUMS];
          terms(0, i, term);
          return term[k];
        });
      }
      weigh(0, threadIdx.x == 0, results);
      for (int k = 0; k < SUMS; k++) results[k] = Wide(0) + results[k];
      return;
    }
    Wide *totals = reinterpret_cast<Wide*>(DAGRUN_SHARED), *whole = totals + SUMS, total = 0;
    const int groups = blockDim.x / Op::lanes();
    for (i64 begin = 0; begin < n.runs; begin += SEGMENTS_AT_A_TIME) {
      const i64 rest = n.runs - begin, count = rest < SEGMENTS_AT_A_TIME ? rest : SEGMENTS_AT_A_TIME;
      for (i64 s = this->group; s < count; s += groups) {
        Wide found[SUMS];
        this->run_sums(n.run, [&](i64 i, Wide(&term)[SUMS]) { terms(begin + s, i, term); }, found);
        if (this->lane != 0) continue;
        weigh(begin + s, true, found);
        for (int k = 0; k < SUMS; k++) whole[s * SUMS + k] = found[k];
      }
      __syncthreads();
      if (threadIdx.x < SUMS) {
#pragma unroll 8
        for (i64 s = 0; s < count; s++) total = total + whole[s * SUMS + threadIdx.x];
      }
      __syncthreads();
    }
    if (threadIdx.x < SUMS) totals[threadIdx.x] = total;
    __syncthreads();
    for (int k = 0; k < SUMS; k++) results[k] = totals[k];
  }
  template <class Enter, class Body>
  DAGRUN_METHOD void each(Enter enter, Body body) const {
    const int lanes = n.segments == 1 ? blockDim.x : Op::lanes();
    for (i64 s = threadIdx.x / lanes; s < n.segments; s += blockDim.x / lanes) {
      enter(s);
#pragma unroll 4
      for (i64 i = threadIdx.x % lanes; i < n.length; i += lanes) body(s, i);
    }
  }
};

// The elements of an operand, for a kernel the array `NUMBER` that it goes over twice or more, at a kept index.
template <class Op, class Team, int NUMBER>
struct Source {
  using Dtype = typename Op::Dtype;
  using Wide = typename Op::Wide;
  const Team& team;
  int operand;
  char* start;

  DAGRUN_METHOD Dtype there(i64 s, i64 i) const { return load<Dtype>(team.n.place(start, operand, s, i)); }
  DAGRUN_METHOD Wide first(i64 s, i64 i) const {
    const Dtype x = there(s, i);
    if constexpr (Team::KEEPS) team.keep(NUMBER)[i] = x;
    return widen(x);
  }
  DAGRUN_METHOD Wide again(i64 s, i64 i) const {
    if constexpr (Team::KEEPS) return widen(team.keep(NUMBER)[i]);
    return widen(there(s, i));
  }
};

template <class Op, class Kernel>
DAGRUN_INLINE void by_teams(const Normalization<Op>& n) {
  constexpr int LEAST = FEWEST_THREADS / Op::lanes() * Kernel::ARRAYS * sizeof(typename Op::Dtype);  // kept at an element
  if (n.run == 1) {
    Kernel::run(n, ByThread<Op>{n});
  } else if (n.segments == 1 && (n.kept >= FEW_KEPT || n.length < LONG_SEGMENT) && n.length * LEAST <= CACHE_BYTES) {
    Kernel::run(n, ByGroup<Op>(n));
  } else {
    Kernel::run(n, ByBlock<Op>(n));
  }
}

// ---- y, mean, var, x [, w, b]

template <class Op>
struct Normalize {
  static constexpr int ARRAYS = 1;  // gone over twice or more

  template <class Team>
  DAGRUN_METHOD static void run(const Normalization<Op>& n, const Team team) {
    using Wide = typename Op::Wide;
    constexpr Weighted WEIGHTS = Op::weights();
    const Call& call = n.call;
    auto as_it_is = [](i64, bool, Wide(&)[1]) {};
    for (i64 k = team.first(); k < n.kept; k += team.step()) {
      const Source<Op, Team, 0> x{team, 1, n.start(call.data[3], 1, k)};
      Wide mean[1], var[1];
      team.sums([&](i64 s, i64 i, Wide(&term)[1]) { term[0] = x.first(s, i); }, as_it_is, mean);
      mean[0] = mean[0] / n.count;
      team.sums(
          [&](i64 s, i64 i, Wide(&term)[1]) {
            const Wide gap = x.again(s, i) - mean[0];
            term[0] = gap * gap;
          },
          as_it_is, var);
      var[0] = var[0] / n.count;
      if (team.leads()) {
        n.put(call.data[1], k, mean[0]);
        n.put(call.data[2], k, var[0]);
      }
      const Wide slope = Op::slope(var[0] + n.eps);
      const i64 weight = WEIGHTS == Weighted::NONE ? 0 : n.weight(k);
      Wide scale = slope, shift = 0;
      auto take = [&](i64 at) { scale = slope * n.of(call.data[4], at), shift = n.of(call.data[5], at); };
      if constexpr (WEIGHTS == Weighted::KEPT) take(weight);
      char* y = n.start(call.data[0], 0, k);
      team.each(
          [&](i64 s) {
            if constexpr (WEIGHTS == Weighted::SEGMENTS) take(weight + s);
          },
          [&](i64 s, i64 i) {
            Wide made = Wide(x.again(s, i) - mean[0]) * scale;
            if constexpr (WEIGHTS == Weighted::ELEMENTS) {
              made = Wide(made * n.of(call.data[4], weight + i)) + n.of(call.data[5], weight + i);
            } else if constexpr (WEIGHTS != Weighted::NONE) {
              made = made + shift;
            }
            store(n.place(y, 0, s, i), narrow<typename Op::Dtype>(made));
          });
    }
  }
};

template <class Op>
DAGRUN_INLINE void normalize(const Call& call) {
  by_teams<Op, Normalize<Op>>(Normalization<Op>(call, true));
}

// ---- x', g, x, mean, var; or x', w', b', g, x, mean, var, w

template <class Op>
struct NormalizeBack {
  static constexpr int ARRAYS = 2;

  template <class Team>
  DAGRUN_METHOD static void run(const Normalization<Op>& n, const Team team) {
    using Wide = typename Op::Wide;
    constexpr Weighted WEIGHTS = Op::weights();
    constexpr int FIRST = WEIGHTS == Weighted::NONE ? 1 : 3;
    const Call& call = n.call;
    for (i64 k = team.first(); k < n.kept; k += team.step()) {
      const Wide mean = n.of(call.data[FIRST + 2], k), slope = Op::slope(n.of(call.data[FIRST + 3], k) + n.eps);
      const Source<Op, Team, 0> g{team, 2, n.start(call.data[FIRST], 2, k)};
      const Source<Op, Team, 1> x{team, 1, n.start(call.data[FIRST + 1], 1, k)};
      const i64 weight = WEIGHTS == Weighted::NONE ? 0 : n.weight(k);
      auto standard = [&](Wide value) { return Wide(Wide(value - mean) * slope); };
      auto weighed = [&](Wide value, i64 i) {
        if constexpr (WEIGHTS == Weighted::ELEMENTS) value = value * n.of(call.data[7], weight + i);
        return value;
      };
      Wide sums[2], scale = slope, own = 1;
      team.sums(
          [&](i64 s, i64 i, Wide(&term)[2]) {
            term[0] = weighed(g.first(s, i), i);
            term[1] = term[0] * standard(x.first(s, i));
          },
          [&](i64 s, bool first, Wide(&found)[2]) {
            if constexpr (WEIGHTS == Weighted::SEGMENTS) {
              if (first) {
                n.put(call.data[1], k * n.segments + s, found[1]);
                n.put(call.data[2], k * n.segments + s, found[0]);
              }
              const Wide w = n.of(call.data[7], weight + s);
              found[0] = w * found[0], found[1] = w * found[1];
            }
          },
          sums);
      if constexpr (WEIGHTS == Weighted::KEPT) {
        if (team.leads()) {
          n.put(call.data[1], k, sums[1]);
          n.put(call.data[2], k, sums[0]);
        }
        scale = slope * n.of(call.data[7], weight);
      }
      const Wide plain = sums[0] / n.count, product = sums[1] / n.count;
      char* made = n.start(call.data[0], 0, k);
      team.each(
          [&](i64 s) {
            if constexpr (WEIGHTS == Weighted::SEGMENTS) own = n.of(call.data[7], weight + s);
          },
          [&](i64 s, i64 i) {
            Wide gradient = weighed(g.again(s, i), i);
            if constexpr (WEIGHTS == Weighted::SEGMENTS) gradient = gradient * own;
            const Wide change = Wide(gradient - plain) - Wide(standard(x.again(s, i)) * product);
            store(n.place(made, 0, s, i), narrow<typename Op::Dtype>(Wide(scale * change)));
          });
    }
  }
};

constexpr int ROWS_AHEAD = 8;

// The sums of w' and b' at an element: of ROWS kept indices whose elements are there at once, and whose mean and slope the
// lanes from `lane` on of the warp have.
template <class Op>
struct OfRows {
  using Dtype = typename Op::Dtype;
  using Wide = typename Op::Wide;
  const Normalization<Op>& n;
  i64 i;
  Wide w = 0, b = 0;

  template <int ROWS>
  DAGRUN_METHOD void add(i64 k, Wide means, Wide slopes, int lane) {
    Dtype g[ROWS], x[ROWS];
#pragma unroll
    for (int j = 0; j < ROWS; j++) {
      g[j] = load<Dtype>(n.place(n.start(n.call.data[3], 2, k + j), 2, 0, i));
      x[j] = load<Dtype>(n.place(n.start(n.call.data[4], 1, k + j), 1, 0, i));
    }
#pragma unroll
    for (int j = 0; j < ROWS; j++) {
      const Wide gap = widen(x[j]) - from_lane<32>(means, lane + j);
      w = w + Wide(widen(g[j]) * Wide(gap * from_lane<32>(slopes, lane + j)));
      b = b + widen(g[j]);
    }
  }
};

// The rows of w' and b', one for each block of kept indices: a thread has an element of it, and the lanes of its warp know
// the mean and the slope of a kept index each.
template <class Op>
DAGRUN_INLINE void add_rows(const Normalization<Op>& n) {
  using Wide = typename Op::Wide;
  const Call& call = n.call;
  const int lane = threadIdx.x % 32;
  const i64 block = call.params[11], across = (n.length + 31) / 32, count = (n.kept + block - 1) / block * across;
  for (i64 number = first_thread() / 32; number < count; number += all_threads() / 32) {
    i64 row, column;
    divide(number, across, row, column);
    const i64 i = column * 32 + lane, begin = row * block, end = begin + block < n.kept ? begin + block : n.kept;
    OfRows<Op> sums{n, i < n.length ? i : n.length - 1};
    for (i64 first = begin; first < end; first += 32) {
      const i64 own = first + lane < end ? first + lane : end - 1;
      const Wide means = n.of(call.data[5], own), slopes = Op::slope(n.of(call.data[6], own) + n.eps);
      const int known = end - first < 32 ? int(end - first) : 32;
      int k = 0;
      for (; k + ROWS_AHEAD <= known; k += ROWS_AHEAD) sums.template add<ROWS_AHEAD>(first + k, means, slopes, k);
      for (; k < known; k++) sums.template add<1>(first + k, means, slopes, k);
    }
    if (i < n.length) {
      n.put(call.data[1], row * n.length + i, sums.w);
      n.put(call.data[2], row * n.length + i, sums.b);
    }
  }
}

template <class Op>
DAGRUN_INLINE void normalize_back(const Call& call) {
  const Normalization<Op> n(call, false);
  by_teams<Op, NormalizeBack<Op>>(n);
  if constexpr (Op::weights() == Weighted::ELEMENTS) add_rows(n);
}

}  // namespace dagrun
