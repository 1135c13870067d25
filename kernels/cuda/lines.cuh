// Softmax and what is made like it: lines of elements along an axis; params of dagrun/codegen/lines.py and softmax.py.
//
// Where lines are contiguous, a group of lanes or a block of threads goes over one; lanes add terms up in the order that
// the vectors of the CPU have. Elsewhere a thread goes over a line. (The order in which the largest element is found
// cannot be told from the results.)
//
// Op: Dtype, Wide (in which is computed), Class; exp(Wide), log(Wide), maximum(Wide, Wide); lanes().
#pragma once
#include "dagrun.cuh"

namespace dagrun {

// As in dagrun/codegen/cuda/softmax.py.
constexpr int STAGED = 8;         // terms of each thread of a block that are added up at a time
constexpr int RESULTS = 16;       // words of shared memory before the terms of a block
constexpr i64 KEPT_BYTES = 36864;  // of all terms of a line
constexpr i64 MANY_LINES = 4096, SHORT_LINE = 64, FEWEST_THREADS = 64;

DAGRUN_INLINE f32 widen(f16 x) { return to_float(x); }
DAGRUN_INLINE f32 widen(f32 x) { return x; }
DAGRUN_INLINE f64 widen(f64 x) { return x; }

template <class To>
DAGRUN_INLINE To narrow(f64 x) {
  return To(x);
}
template <class To>
DAGRUN_INLINE To narrow(f32 x) {
  if constexpr (sizeof(To) == 2) {
    return to_half(x);
  } else {
    return To(x);
  }
}

// K operands; `OWN` words of the kernel's own.
template <int K, int OWN>
struct Lines {
  const Call& call;
  i64 length, way, beside, dims, count;
  const i64 *steps, *besides, *own, *words;
  char* at[K];

  DAGRUN_METHOD explicit Lines(const Call& call_) : call(call_) {
    length = call.params[0], way = call.params[1], beside = call.params[2], dims = call.params[3];
    steps = call.params + 4, besides = steps + K, own = besides + K, words = own + OWN;
    count = length < 0 ? 0 : beside * positions(words, dims, K);
  }
  DAGRUN_METHOD bool inner() const { return way == 0; }
  DAGRUN_METHOD void move(i64 line) {
    i64 row, column, offsets[K] = {};
    divide(line, beside, row, column);
    position<K>(words, dims, row, offsets);
    for (int k = 0; k < K; k++) at[k] = call.data[k] + offsets[k] + column * besides[k];
  }
  DAGRUN_METHOD char* place(int k, i64 i) const { return at[k] + i * steps[k]; }
};

template <class Op>
DAGRUN_INLINE typename Op::Wide lowest() {
  if constexpr (sizeof(typename Op::Wide) == 4) {
    return bits_of<f32>(0xff800000u);
  } else {
    return bits_of<f64>(0xfff0000000000000ull);
  }
}

// The value of another of the LANES neighbouring threads that go over a line.
template <int LANES, class T>
DAGRUN_INLINE T from_lane(T value, int lane) {
  const int first = threadIdx.x % 32 / LANES * LANES;
  return __shfl_sync(0xffffffffu >> (32 - LANES) << first, value, first + lane);
}
// Their values added up by halving: each with the one half of them away, which is the same for both.
template <class Op>
DAGRUN_INLINE typename Op::Wide halved(typename Op::Wide value) {
  constexpr int LANES = Op::lanes();
  for (int half = LANES / 2; half > 0; half /= 2) {
    value = value + from_lane<LANES>(value, int(threadIdx.x % LANES) ^ half);
  }
  return value;
}
// Whether groups of lanes go over lines that are contiguous, not blocks.
template <class Op>
DAGRUN_INLINE bool grouped(i64 length, i64 count) {
  const i64 bytes = (length + 31 + Op::lanes()) * i64(sizeof(typename Op::Wide));
  return (count >= MANY_LINES || length <= SHORT_LINE) && FEWEST_THREADS / Op::lanes() * bytes <= KEPT_BYTES;
}

// A line that a block of threads goes over: all of them compute terms, a few lanes add them up.
template <class Op>
struct Together {
  using Wide = typename Op::Wide;
  static constexpr int LANES = Op::lanes();
  i64 length;

  DAGRUN_METHOD Wide* results() const { return reinterpret_cast<Wide*>(DAGRUN_SHARED); }
  DAGRUN_METHOD Wide* staged() const { return results() + RESULTS; }
  DAGRUN_METHOD bool keeps() const { return length * i64(sizeof(Wide)) <= KEPT_BYTES; }
  DAGRUN_METHOD bool first() const { return threadIdx.x == 0; }
  template <class Body>
  DAGRUN_METHOD void each(Body body) const {
#pragma unroll 4
    for (i64 i = threadIdx.x; i < length; i += blockDim.x) body(i);
  }
  // Term i of the last reduction; a thread asks for those that it has computed.
  template <class Term>
  DAGRUN_METHOD Wide again(i64 i, Term term) const {
    return keeps() ? staged()[i] : term(i);
  }
  template <class Term>
  DAGRUN_METHOD Wide largest(Term term) const {
    Wide best = lowest<Op>();
    each([&](i64 i) {
      const Wide x = term(i);
      if (keeps()) staged()[i] = x;
      best = Op::maximum(best, x);
    });
    for (int half = 16; half > 0; half /= 2) {
      best = Op::maximum(best, __shfl_sync(0xffffffffu, best, (threadIdx.x % 32) ^ half));
    }
    if (threadIdx.x % 32 == 0) results()[1 + threadIdx.x / 32] = best;
    __syncthreads();
    for (int warp = 0; warp < blockDim.x / 32; warp++) best = Op::maximum(best, results()[1 + warp]);
    return best;
  }
  // All terms added up: lanes in order, then the lanes by halving, then the elements left over.
  template <class Term>
  DAGRUN_METHOD Wide sum(Term term) const {
    const i64 whole = length & -LANES, room = keeps() ? length : i64(STAGED) * blockDim.x;  // or a multiple of LANES
    Wide total = 0, left = 0;
    for (i64 begin = 0; begin < length; begin += room) {
      const i64 count = length - begin < room ? length - begin : room;
      if (begin > 0) __syncthreads();
#pragma unroll 4
      for (i64 i = threadIdx.x; i < count; i += blockDim.x) staged()[i] = term(begin + i);
      __syncthreads();
      if (threadIdx.x < LANES) {
        const i64 full = whole - begin < count ? whole - begin : count;
#pragma unroll 8
        for (i64 i = threadIdx.x; i < full; i += LANES) total = total + staged()[i];
        for (i64 i = full; i < count; i++) left = left + staged()[i];
      }
    }
    if (threadIdx.x < LANES) {
      total = halved<Op>(total) + left;
      if (threadIdx.x == 0) results()[0] = total;
    }
    __syncthreads();
    return results()[0];
  }
};

// A line that a group of lanes goes over, each of which keeps its terms in shared memory.
template <class Op>
struct Grouped {
  using Wide = typename Op::Wide;
  static constexpr int LANES = Op::lanes();
  i64 length;

  DAGRUN_METHOD int lane() const { return threadIdx.x % LANES; }
  DAGRUN_METHOD bool first() const { return lane() == 0; }
  // The lines of a warp begin in different banks.
  DAGRUN_METHOD Wide* kept() const {
    return reinterpret_cast<Wide*>(DAGRUN_SHARED) + threadIdx.x / LANES * (((length + 31) & -32) + LANES);
  }
  template <class Body>
  DAGRUN_METHOD void each(Body body) const {
#pragma unroll 4
    for (i64 i = lane(); i < length; i += LANES) body(i);
  }
  template <class Term>
  DAGRUN_METHOD Wide again(i64 i, Term) const {
    return kept()[i];
  }
  template <class Term>
  DAGRUN_METHOD Wide largest(Term term) const {
    Wide best = lowest<Op>();
    each([&](i64 i) { best = Op::maximum(best, kept()[i] = term(i)); });
    for (int half = LANES / 2; half > 0; half /= 2) best = Op::maximum(best, from_lane<LANES>(best, lane() ^ half));
    return best;
  }
  template <class Term>
  DAGRUN_METHOD Wide sum(Term term) const {
    const i64 whole = length & -LANES, rest = length - whole;
    Wide total = 0, left = 0, own = 0;
#pragma unroll 4
    for (i64 i = lane(); i < whole; i += LANES) total = total + (kept()[i] = term(i));
    if (lane() < rest) own = kept()[whole + lane()] = term(whole + lane());
    for (int i = 0; i < rest; i++) left = left + from_lane<LANES>(own, i);
    return halved<Op>(total) + left;
  }
};

// A line that one thread goes over.
template <class Op>
struct Alone {
  using Wide = typename Op::Wide;
  i64 length;

  DAGRUN_METHOD bool first() const { return true; }
  template <class Body>
  DAGRUN_METHOD void each(Body body) const {
#pragma unroll 4
    for (i64 i = 0; i < length; i++) body(i);
  }
  template <class Term>
  DAGRUN_METHOD Wide again(i64 i, Term term) const {
    return term(i);
  }
  template <class Term>
  DAGRUN_METHOD Wide largest(Term term) const {
    Wide best = lowest<Op>();
    each([&](i64 i) { best = Op::maximum(best, term(i)); });
    return best;
  }
  template <class Term>
  DAGRUN_METHOD Wide sum(Term term) const {
    Wide total = 0;
    each([&](i64 i) { total = total + term(i); });
    return total;
  }
};

// Runs a kernel, the `lines` it goes over with a method `line(walker)`, in the way that their strides and their number
// ask for. (A generic lambda would do, but for NVRTC it is a function of the host.)
template <class Op, class Kernel>
DAGRUN_INLINE void over_lines(Kernel lines) {
  constexpr int LANES = Op::lanes();
  if (lines.inner() && grouped<Op>(lines.length, lines.count)) {
    for (i64 line = first_thread() / LANES; line < lines.count; line += all_threads() / LANES) {
      lines.move(line);
      lines.line(Grouped<Op>{lines.length});
    }
  } else if (lines.inner()) {
    for (i64 line = blockIdx.x; line < lines.count; line += gridDim.x) {
      lines.move(line);
      lines.line(Together<Op>{lines.length});
    }
  } else {
    for (i64 line = first_thread(); line < lines.count; line += all_threads()) {
      lines.move(line);
      lines.line(Alone<Op>{lines.length});
    }
  }
}

// ---- softmax: y, x

template <class Op, bool LOGARITHM>
struct SoftmaxForward : Lines<2, 0> {
  using Dtype = typename Op::Dtype;
  using Wide = typename Op::Wide;
  using Lines<2, 0>::Lines;

  template <class Line>
  DAGRUN_METHOD void line(Line walk) {
    auto x = [&](i64 i) { return Wide(widen(load<Dtype>(this->place(1, i)))); };
    const Wide top = walk.largest(x);
    const Wide total = walk.sum([&](i64 i) { return Op::exp(walk.again(i, x) - top); });
    if constexpr (LOGARITHM) {
      const Wide logarithm = Op::log(total);
      walk.each([&](i64 i) { store(this->place(0, i), narrow<Dtype>(Wide(x(i) - top) - logarithm)); });
    } else {
      auto power = [&](i64 i) { return Op::exp(x(i) - top); };
      walk.each([&](i64 i) { store(this->place(0, i), narrow<Dtype>(walk.again(i, power) / total)); });
    }
  }
};

template <class Op>
DAGRUN_INLINE void softmax(const Call& call) {
  over_lines<Op>(SoftmaxForward<Op, false>(call));
}
template <class Op>
DAGRUN_INLINE void log_softmax(const Call& call) {
  over_lines<Op>(SoftmaxForward<Op, true>(call));
}

// ---- their gradients: x', g, y

template <class Op, bool LOGARITHM>
struct SoftmaxBackward : Lines<3, 0> {
  using Dtype = typename Op::Dtype;
  using Wide = typename Op::Wide;
  using Lines<3, 0>::Lines;

  template <class Line>
  DAGRUN_METHOD void line(Line walk) {
    auto g = [&](i64 i) { return Wide(widen(load<Dtype>(this->place(1, i)))); };
    auto y = [&](i64 i) { return Wide(widen(load<Dtype>(this->place(2, i)))); };
    const Wide total = walk.sum([&](i64 i) {
      if constexpr (LOGARITHM) {
        return g(i);
      } else {
        return Wide(g(i) * y(i));
      }
    });
    walk.each([&](i64 i) {
      if constexpr (LOGARITHM) {
        store(this->place(0, i), narrow<Dtype>(walk.again(i, g) - Wide(Op::exp(y(i)) * total)));
      } else {
        store(this->place(0, i), narrow<Dtype>(y(i) * Wide(g(i) - total)));
      }
    });
  }
};

template <class Op>
DAGRUN_INLINE void softmax_back(const Call& call) {
  over_lines<Op>(SoftmaxBackward<Op, false>(call));
}
template <class Op>
DAGRUN_INLINE void log_softmax_back(const Call& call) {
  over_lines<Op>(SoftmaxBackward<Op, true>(call));
}

// ---- with classes. The weights of classes, where there are any, follow the other operands.

constexpr i64 CLASS_OUT_OF_RANGE = 1;

template <class Op, int K>
struct Classes : Lines<K, 2> {
  using Wide = typename Op::Wide;
  i64 ignored;
  Wide smoothing;

  DAGRUN_METHOD explicit Classes(const Call& call) : Lines<K, 2>(call) {
    ignored = this->own[0];
    smoothing = Wide(bits_of<f64>(this->own[1]));
  }
  DAGRUN_METHOD Wide weight(i64 i) const {
    if constexpr (Op::weighted()) {
      return load<Wide>(this->call.data[K] + i * i64(sizeof(Wide)));
    } else {
      return Wide(1);
    }
  }
  // The class of the line; false where it is out of range.
  template <class Line>
  DAGRUN_METHOD bool own_class(const Line& line, int operand, i64& own) const {
    own = i64(load<typename Op::Class>(this->at[operand]));
    if (own == ignored || (own >= 0 && own < this->length)) return true;
    if (line.first()) fail(this->call.error, CLASS_OUT_OF_RANGE, own, this->length);
    return false;
  }
};

// loss, lse, w, x, t
template <class Op>
struct CrossEntropy : Classes<Op, 5> {
  using Dtype = typename Op::Dtype;
  using Wide = typename Op::Wide;
  using Classes<Op, 5>::Classes;

  template <class Line>
  DAGRUN_METHOD void line(Line walk) {
    i64 own;
    if (!this->own_class(walk, 4, own)) return;
    const bool valid = own != this->ignored;
    auto x = [&](i64 i) { return Wide(widen(load<Dtype>(this->place(3, i)))); };
    const Wide top = walk.largest(x);
    const Wide total = walk.sum([&](i64 i) { return Op::exp(walk.again(i, x) - top); });
    const Wide lse = top + Op::log(total), w = valid ? this->weight(own) : Wide(0);
    Wide loss = w * Wide(lse - x(valid ? own : 0));
    if (this->smoothing != Wide(0)) {
      const Wide gaps = walk.sum([&](i64 i) { return Wide(this->weight(i) * Wide(lse - x(i))); });
      const Wide share = this->smoothing / Wide(this->length);
      loss = Wide(Wide(Wide(1) - this->smoothing) * loss) + Wide(share * gaps);
    }
    if (walk.first()) {
      store(this->at[0], valid ? loss : Wide(0));
      store(this->at[1], lse);
      store(this->at[2], w);
    }
  }
};

template <class Op>
DAGRUN_INLINE void cross_entropy(const Call& call) {
  over_lines<Op>(CrossEntropy<Op>(call));
}

// x', g, x, lse, w, t
template <class Op>
struct CrossEntropyBack : Classes<Op, 6> {
  using Dtype = typename Op::Dtype;
  using Wide = typename Op::Wide;
  using Classes<Op, 6>::Classes;

  template <class Line>
  DAGRUN_METHOD void line(Line walk) {
    const i64 own = i64(load<typename Op::Class>(this->at[5]));
    const bool valid = own != this->ignored;
    const Wide g = load<Wide>(this->at[1]), lse = load<Wide>(this->at[3]), w = load<Wide>(this->at[4]);
    const Wide share = this->smoothing / Wide(this->length);
    Wide total = Wide(this->length);
    if constexpr (Op::weighted()) {
      total = walk.sum([&](i64 i) { return this->weight(i); });
    }
    const Wide chosen = Wide(Wide(1) - this->smoothing) * w, powers = chosen + Wide(share * total);
    walk.each([&](i64 i) {
      const Wide power = Op::exp(Wide(widen(load<Dtype>(this->place(2, i)))) - lse);
      const Wide target = Wide(share * this->weight(i)) + (i == own ? chosen : Wide(0));
      store(this->place(0, i), narrow<Dtype>(valid ? Wide(g * Wide(Wide(powers * power) - target)) : Wide(0)));
    });
  }
};

template <class Op>
DAGRUN_INLINE void cross_entropy_back(const Call& call) {
  over_lines<Op>(CrossEntropyBack<Op>(call));
}

// loss, w, x, t
template <class Op>
struct Nll : Classes<Op, 4> {
  using Wide = typename Op::Wide;
  using Classes<Op, 4>::Classes;

  template <class Line>
  DAGRUN_METHOD void line(Line walk) {
    i64 own;
    if (!this->own_class(walk, 3, own) || !walk.first()) return;
    const bool valid = own != this->ignored;
    const Wide w = valid ? this->weight(own) : Wide(0);
    const Wide x = widen(load<typename Op::Dtype>(this->place(2, valid ? own : 0)));
    store(this->at[0], valid ? -Wide(w * x) : Wide(0));
    store(this->at[1], w);
  }
};

template <class Op>
DAGRUN_INLINE void nll(const Call& call) {
  over_lines<Op>(Nll<Op>(call));
}

// x', g, w, t
template <class Op>
struct NllBack : Classes<Op, 4> {
  using Wide = typename Op::Wide;
  using Classes<Op, 4>::Classes;

  template <class Line>
  DAGRUN_METHOD void line(Line walk) {
    const i64 own = i64(load<typename Op::Class>(this->at[3]));
    const Wide share = -Wide(load<Wide>(this->at[1]) * load<Wide>(this->at[2]));
    walk.each([&](i64 i) { store(this->place(0, i), narrow<typename Op::Dtype>(i == own ? share : Wide(0))); });
  }
};

template <class Op>
DAGRUN_INLINE void nll_back(const Call& call) {
  over_lines<Op>(NllBack<Op>(call));
}

}  // namespace dagrun
