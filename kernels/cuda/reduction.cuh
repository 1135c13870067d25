// Reductions of any axes of a strided operand, with the tree of dagrun/codegen/reduction.py (which see for the params):
// runs are cut into blocks of 1024 elements, or of 32 rows; blocks are combined as a binary counter carries. The blocks
// of a result are computed by several groups of threads at a time; the tree, and so the bits, do not depend on how many.
//
// Few results of many elements take two launches: `reduce_parts` gives, for each result, a value for each segment of 2^k
// blocks, which is a branch of the tree, and one for the rest; `combine_parts` combines them. The word after the params is
// the length of a segment. Where each result has one block of elements, groups of threads, or single threads, make a
// result each, and none waits for another.
//
// Op: In, Compute, Out; prepare(In) -> Compute; combine(older, newer); identity(); finish(result, count) -> Out; lanes().
#pragma once
#include "dagrun.cuh"

namespace dagrun {

constexpr int RUN_BLOCK = 1024, ROW_BLOCK = 32, LEVELS = 56;

struct Reduction {  // the params block
  i64 variant, kept_dims, reduced_dims, n, stride, m, out_step, count, per_run, blocks;
  const i64 *kept, *reduced;
  DAGRUN_METHOD explicit Reduction(const Call& call) {
    const i64* words = call.params;
    variant = words[0], kept_dims = words[1], reduced_dims = words[2], n = words[3], stride = words[4], m = words[5];
    out_step = words[6], count = words[7];
    kept = words + 8, reduced = kept + 3 * kept_dims;
    const i64 block = variant == 0 ? RUN_BLOCK : ROW_BLOCK;
    per_run = (n + block - 1) / block, blocks = n < 0 ? 0 : per_run * positions(reduced, reduced_dims, 1);
  }
  // How many neighbouring results a block of threads makes together ("outer" only).
  DAGRUN_METHOD int width() const {
    int lanes = 1;
    while (lanes < 32 && lanes < m) lanes *= 2;
    return lanes;
  }
  DAGRUN_METHOD i64 segment() const { return reduced[2 * reduced_dims]; }
  DAGRUN_METHOD i64 parts() const { return (blocks + segment() - 1) / segment(); }
};

// The binary counter of partial results, older ones first; its levels lie `step` elements apart.
template <class Op>
struct Counter {
  typename Op::Compute* stack;
  int step;

  // Takes a tree of 2^level blocks after `before` blocks, a multiple of 2^level.
  DAGRUN_METHOD void push(i64 before, int level, typename Op::Compute value) {
    for (i64 rest = before >> level; rest & 1; rest >>= 1) value = Op::combine(stack[step * level++], value);
    stack[step * level] = value;
  }
  DAGRUN_METHOD typename Op::Compute fold(i64 blocks, typename Op::Compute total) {
    for (int level = 0; blocks != 0; level++, blocks >>= 1) {
      if (blocks & 1) total = Op::combine(stack[step * level], total);
    }
    return total;
  }
};

// A block of at most 1024 elements, by the threads of a group; the result is that of the group's first thread.
template <class Op>
DAGRUN_INLINE typename Op::Compute block_total(const char* place, i64 stride, i64 length) {
  using Compute = typename Op::Compute;
  constexpr int LANES = Op::lanes();
  const int lane = threadIdx.x % LANES, first = threadIdx.x % 32 - lane;
  const u32 mask = LANES == 32 ? 0xffffffffu : ((1u << (LANES % 32)) - 1) << first;
  const i64 whole = length & -LANES;
  Compute total = Op::identity();
#pragma unroll 8
  for (i64 i = lane; i < whole; i += LANES) {
    total = Op::combine(total, Op::prepare(load<typename Op::In>(place + i * stride)));
  }
  for (int half = LANES / 2; half > 0; half /= 2) {
    total = Op::combine(total, Compute(__shfl_sync(mask, total, first + (lane + half) % LANES)));
  }
  if (whole == 0) total = Op::identity();
  const i64 rest = length - whole;
  Compute own = Op::identity(), left = Op::identity();
  if (lane < rest) own = Op::prepare(load<typename Op::In>(place + (whole + lane) * stride));
  for (int i = 0; i < rest; i++) left = Op::combine(left, Compute(__shfl_sync(mask, own, first + i)));
  return Op::combine(total, left);
}

// The blocks of elements that a block of threads goes over: all of a result's, or those of part `part`.
template <bool PARTS>
DAGRUN_INLINE void blocks_of(const Reduction& r, i64 part, i64& first, i64& after) {
  first = 0, after = r.blocks;
  if constexpr (PARTS) {
    first = part * r.segment();
    if (first + r.segment() < after) after = first + r.segment();
  }
}

// Results of one block of elements each, by a group of threads or, where they have few elements, by a thread.
template <class Op>
DAGRUN_INLINE void reduce_short_inner(const Call& call, const Reduction& r) {
  using Compute = typename Op::Compute;
  constexpr int LANES = Op::lanes();
  const i64 results = positions(r.kept, r.kept_dims, 2);
  const bool alone = r.n < LANES;
  const i64 step = alone ? all_threads() : all_threads() / LANES;
  for (i64 result = alone ? first_thread() : first_thread() / LANES; result < results; result += step) {
    i64 at[2] = {};
    position<2>(r.kept, r.kept_dims, result, at);
    const char* place = call.data[1] + at[1];
    Compute total = Op::identity();
    if (alone) {
      for (i64 i = 0; i < r.n; i++) {
        total = Op::combine(total, Op::prepare(load<typename Op::In>(place + i * r.stride)));
      }
      total = Op::combine(Op::identity(), total);
    } else {
      total = block_total<Op>(place, r.stride, r.n);
    }
    total = Op::combine(total, Op::identity());  // as Counter::fold does
    if (alone || threadIdx.x % LANES == 0) {
      store<typename Op::Out>(call.data[0] + at[0], Op::finish(total, r.count));
    }
  }
}

// The same for neighbouring results: a thread for each.
template <class Op>
DAGRUN_INLINE void reduce_short_outer(const Call& call, const Reduction& r) {
  using Compute = typename Op::Compute;
  const i64 results = r.m * positions(r.kept, r.kept_dims, 2);
  for (i64 result = first_thread(); result < results; result += all_threads()) {
    i64 outer = 0, column = result, at[2] = {};
    if (r.kept_dims > 0) {
      divide(result, r.m, outer, column);
      position<2>(r.kept, r.kept_dims, outer, at);
    }
    const char* place = call.data[1] + at[1] + column * i64(sizeof(typename Op::In));
    Compute total = Op::identity();
#pragma unroll 8
    for (i64 i = 0; i < r.n; i++) {
      total = Op::combine(total, Op::prepare(load<typename Op::In>(place + i * r.stride)));
    }
    total = Op::combine(total, Op::identity());
    store<typename Op::Out>(call.data[0] + at[0] + column * r.out_step, Op::finish(total, r.count));
  }
}

// One result at a time for each block of threads; the groups take the blocks of its elements in turn.
template <class Op, bool PARTS>
DAGRUN_INLINE void reduce_inner(const Call& call, const Reduction& r) {
  using Compute = typename Op::Compute;
  constexpr int LANES = Op::lanes();
  Compute* totals = reinterpret_cast<Compute*>(DAGRUN_SHARED);
  const int groups = blockDim.x / LANES, group = threadIdx.x / LANES;
  Counter<Op> counter{totals + groups, 1};
  int level = 0;
  while (1 << level < groups) level++;
  const i64 parts = PARTS ? r.parts() : 1, jobs = positions(r.kept, r.kept_dims, 2) * parts;
  for (i64 job = blockIdx.x; job < jobs; job += gridDim.x) {
    i64 result, part, first, after, at[2] = {};
    divide(job, parts, result, part);
    blocks_of<PARTS>(r, part, first, after);
    position<2>(r.kept, r.kept_dims, result, at);
    for (i64 before = first; before < after; before += groups) {
      if (before + group < after) {
        i64 run, block, offset[1] = {at[1]};
        divide(before + group, r.per_run, run, block);
        position<1>(r.reduced, r.reduced_dims, run, offset);
        const i64 rest = r.n - block * RUN_BLOCK;
        const char* place = call.data[1] + offset[0] + block * RUN_BLOCK * r.stride;
        const Compute total = block_total<Op>(place, r.stride, rest < RUN_BLOCK ? rest : RUN_BLOCK);
        if (threadIdx.x % LANES == 0) totals[group] = total;
      }
      __syncthreads();
      if (after - before >= groups) {
        for (int step = 1; step < groups; step *= 2) {
          if (threadIdx.x < groups && threadIdx.x % (2 * step) == 0) {
            totals[threadIdx.x] = Op::combine(totals[threadIdx.x], totals[threadIdx.x + step]);
          }
          __syncthreads();
        }
        if (threadIdx.x == 0) counter.push(before - first, level, totals[0]);
      } else if (threadIdx.x == 0) {
        for (i64 i = 0; i < after - before; i++) counter.push(before - first + i, 0, totals[i]);
      }
      __syncthreads();
    }
    if (threadIdx.x != 0) continue;
    const Compute total = counter.fold(after - first, Op::identity());
    if constexpr (PARTS) {
      store<Compute>(call.data[0] + job * i64(sizeof(Compute)), total);
    } else {
      store<typename Op::Out>(call.data[0] + at[0], Op::finish(total, r.count));
    }
  }
}

// Up to 32 neighbouring results at a time for each block of threads, a thread of each group for each.
template <class Op, bool PARTS>
DAGRUN_INLINE void reduce_outer(const Call& call, const Reduction& r) {
  using Compute = typename Op::Compute;
  Compute* totals = reinterpret_cast<Compute*>(DAGRUN_SHARED);
  const int width = r.width(), groups = blockDim.x / width, group = threadIdx.x / width, lane = threadIdx.x % width;
  Counter<Op> counter{totals + width * groups + lane, width};
  int level = 0;
  while (1 << level < groups) level++;
  const i64 parts = PARTS ? r.parts() : 1, tiles = (r.m + width - 1) / width;
  const i64 jobs = tiles * positions(r.kept, r.kept_dims, 2) * parts;
  for (i64 job = blockIdx.x; job < jobs; job += gridDim.x) {
    i64 tile, part, first, after, outer, column, at[2] = {};
    divide(job, parts, tile, part);
    blocks_of<PARTS>(r, part, first, after);
    divide(tile, tiles, outer, column);
    column = column * width + lane;
    position<2>(r.kept, r.kept_dims, outer, at);
    for (i64 before = first; before < after; before += groups) {
      Compute total = Op::identity();
      if (before + group < after && column < r.m) {
        i64 run, block, offset[1] = {at[1]};
        divide(before + group, r.per_run, run, block);
        position<1>(r.reduced, r.reduced_dims, run, offset);
        const i64 top = block * ROW_BLOCK, bottom = top + ROW_BLOCK < r.n ? top + ROW_BLOCK : r.n;
        const char* place = call.data[1] + offset[0] + column * i64(sizeof(typename Op::In));
#pragma unroll 8
        for (i64 i = top; i < bottom; i++) {
          total = Op::combine(total, Op::prepare(load<typename Op::In>(place + i * r.stride)));
        }
      }
      totals[threadIdx.x] = total;
      __syncthreads();
      if (after - before >= groups) {
        for (int step = 1; step < groups; step *= 2) {
          if (group % (2 * step) == 0) {
            totals[threadIdx.x] = Op::combine(totals[threadIdx.x], totals[threadIdx.x + width * step]);
          }
          __syncthreads();
        }
        if (group == 0) counter.push(before - first, level, totals[lane]);
      } else if (group == 0) {
        for (i64 i = 0; i < after - before; i++) counter.push(before - first + i, 0, totals[width * i + lane]);
      }
      __syncthreads();
    }
    if (group != 0 || column >= r.m) continue;
    const Compute total = counter.fold(after - first, Op::identity());
    if constexpr (PARTS) {
      store<Compute>(call.data[0] + ((outer * r.m + column) * parts + part) * i64(sizeof(Compute)), total);
    } else {
      store<typename Op::Out>(call.data[0] + at[0] + column * r.out_step, Op::finish(total, r.count));
    }
  }
}

template <class Op, bool PARTS>
DAGRUN_INLINE void reduce(const Call& call) {
  const Reduction r(call);
  if (r.n < 0) return;
  if constexpr (!PARTS) {
    if (r.blocks == 1) {
      if (r.variant == 0) {
        reduce_short_inner<Op>(call, r);
      } else {
        reduce_short_outer<Op>(call, r);
      }
      return;
    }
  }
  if (r.variant == 0) {
    reduce_inner<Op, PARTS>(call, r);
  } else {
    reduce_outer<Op, PARTS>(call, r);
  }
}

template <class Op>
DAGRUN_INLINE void reduce(const Call& call) {
  reduce<Op, false>(call);
}

// Data: parts, input; the parts of a result lie beside each other. Op::Out is not used.
template <class Op>
DAGRUN_INLINE void reduce_parts(const Call& call) {
  reduce<Op, true>(call);
}

// Data: output, parts. A block of threads, as many as there are parts or more, combines those of a result.
template <class Op>
DAGRUN_INLINE void combine_parts(const Call& call) {
  using Compute = typename Op::Compute;
  const Reduction r(call);
  Compute* totals = reinterpret_cast<Compute*>(DAGRUN_SHARED);
  const i64 parts = r.parts(), whole = r.blocks / r.segment(), results = r.m * positions(r.kept, r.kept_dims, 2);
  const i64 self = threadIdx.x;
  for (i64 result = blockIdx.x; result < results; result += gridDim.x) {
    if (self < parts) totals[self] = load<Compute>(call.data[1] + (result * parts + self) * i64(sizeof(Compute)));
    __syncthreads();
    for (i64 step = 1; 2 * step <= whole; step *= 2) {
      if (self % (2 * step) == 0 && self + 2 * step <= whole) {
        totals[self] = Op::combine(totals[self], totals[self + step]);
      }
      __syncthreads();
    }
    if (self == 0) {  // smallest branch first, as Counter::fold does
      Compute total = whole < parts ? totals[whole] : Op::identity();
      for (i64 size = 1; size <= whole; size *= 2) {
        if (whole & size) total = Op::combine(totals[whole / (2 * size) * (2 * size)], total);
      }
      i64 outer, column, at[2] = {};
      divide(result, r.m, outer, column);
      position<2>(r.kept, r.kept_dims, outer, at);
      store<typename Op::Out>(call.data[0] + at[0] + column * r.out_step, Op::finish(total, r.count));
    }
    __syncthreads();
  }
}

// ---- argmax, argmin: the first position of the best element
//
// Op: In, Compute, Out; prepare(In) -> Compute; better(new, old); is_nan(x).
//
// Neighbouring results that lie beside each other in the input, but whose elements do not, are made together. Few results
// of many elements take two launches: `argument_parts` gives the position of the best element of each segment, of the
// length that stands after the params; `combine_arguments` compares what stands there.

template <class Op>
struct Best {
  typename Op::Compute value;
  i64 place = -1;  // -1: nothing there

  DAGRUN_METHOD void meet(typename Op::Compute other, i64 there) {
    if (there < 0 || (place >= 0 && !wins(other, there))) return;
    value = other, place = there;
  }
  DAGRUN_METHOD bool wins(typename Op::Compute other, i64 there) const {
    const bool nan = Op::is_nan(other), own = Op::is_nan(value);
    if (nan != own) return nan;
    if (!nan && Op::better(other, value)) return true;
    return (nan || !Op::better(value, other)) && there < place;
  }
  // The best of every `width`-th thread of a block, in each of its first `width` threads. All threads take part.
  DAGRUN_METHOD void meet_others(unsigned width) {
    i64* places = reinterpret_cast<i64*>(DAGRUN_SHARED);
    auto* values = reinterpret_cast<typename Op::Compute*>(DAGRUN_SHARED + blockDim.x * sizeof(i64));
    for (unsigned half = blockDim.x / 2; half >= width; half /= 2) {
      places[threadIdx.x] = place, values[threadIdx.x] = value;
      __syncthreads();
      if (threadIdx.x < half) meet(values[threadIdx.x + half], places[threadIdx.x + half]);
      __syncthreads();
    }
  }
};

template <class Op>
struct Argument : Reduction {
  using In = typename Op::In;
  using Compute = typename Op::Compute;
  i64 results, neighbours;  // the innermost kept dimension, where its results are made together; else 1
  int width;                // how many at a time

  DAGRUN_METHOD explicit Argument(const Call& call) : Reduction(call), neighbours(1), width(1) {
    results = n < 0 ? 0 : positions(kept, kept_dims, 2);
    if (kept_dims == 0 || kept[2] != i64(sizeof(In)) || stride == i64(sizeof(In))) return;
    neighbours = kept[0];
    while (width < 32 && width < neighbours) width *= 2;
  }
  DAGRUN_METHOD Compute at(const char* line, i64 number) const {
    i64 run = 0, column = number, offset[1] = {};
    if (reduced_dims > 0) {
      divide(number, n, run, column);
      position<1>(reduced, reduced_dims, run, offset);
    }
    return Op::prepare(load<In>(line + offset[0] + column * stride));
  }
};

template <class Op, bool PARTS>
DAGRUN_INLINE void best_places(const Call& call) {
  const Argument<Op> r(call);
  if (r.results == 0) return;
  const int lane = threadIdx.x % r.width, group = threadIdx.x / r.width, groups = blockDim.x / r.width;
  const i64 segment = PARTS ? r.segment() : r.count, parts = PARTS ? (r.count + segment - 1) / segment : 1;
  const i64 tiles = (r.neighbours + r.width - 1) / r.width, jobs = r.results / r.neighbours * tiles * parts;
  for (i64 job = blockIdx.x; job < jobs; job += gridDim.x) {
    i64 tile, part, outer, column, at[2] = {};
    divide(job, parts, tile, part);
    divide(tile, tiles, outer, column);
    column = column * r.width + lane;
    const i64 result = outer * r.neighbours + column;
    Best<Op> best{};
    if (column < r.neighbours) {
      position<2>(r.kept, r.kept_dims, result, at);
      const char* line = call.data[1] + at[1];
      const i64 first = part * segment, after = first + segment < r.count ? first + segment : r.count;
#pragma unroll 4
      for (i64 i = first + group; i < after; i += groups) best.meet(r.at(line, i), i);
    }
    best.meet_others(r.width);
    if (group != 0 || column >= r.neighbours) continue;
    if constexpr (PARTS) {
      store<i64>(call.data[0] + (result * parts + part) * i64(sizeof(i64)), best.place);
    } else {
      store<typename Op::Out>(call.data[0] + at[0], typename Op::Out(best.place < 0 ? 0 : best.place));
    }
  }
}

template <class Op>
DAGRUN_INLINE void reduce_argument(const Call& call) {
  best_places<Op, false>(call);
}

// Data: parts, input; the parts of a result lie beside each other. Op::Out is not used.
template <class Op>
DAGRUN_INLINE void argument_parts(const Call& call) {
  best_places<Op, true>(call);
}

// Data: output, parts, input. A block of threads, as many as there are parts or more, compares those of a result.
template <class Op>
DAGRUN_INLINE void combine_arguments(const Call& call) {
  const Argument<Op> r(call);
  const i64 parts = (r.count + r.segment() - 1) / r.segment();
  for (i64 result = blockIdx.x; result < r.results; result += gridDim.x) {
    i64 at[2] = {};
    position<2>(r.kept, r.kept_dims, result, at);
    Best<Op> best{};
    if (threadIdx.x < parts) {
      const i64 place = load<i64>(call.data[1] + (result * parts + threadIdx.x) * i64(sizeof(i64)));
      best.meet(r.at(call.data[2] + at[1], place), place);
    }
    best.meet_others(1);
    if (threadIdx.x == 0) store<typename Op::Out>(call.data[0] + at[0], typename Op::Out(best.place));
  }
}

}  // namespace dagrun
