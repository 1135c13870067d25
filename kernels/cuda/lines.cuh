// Softmax and what is made like it: lines of elements along an axis; params of dagrun/codegen/lines.py and softmax.py.
//
// Where lines are contiguous a block of threads goes over one: all of its threads compute terms, some at a time, and a
// few lanes combine them, in the order that the vectors of the CPU have. Elsewhere a thread goes over a line.
//
// Op: Dtype, Wide (in which is computed), Class; exp(Wide), log(Wide), maximum(Wide, Wide); lanes().
#pragma once
#include "dagrun.cuh"

namespace dagrun {

constexpr int STAGED = 8;  // terms of each thread that are combined at a time

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

// A line that a block of threads goes over.
template <class Op>
struct Together {
  using Wide = typename Op::Wide;
  i64 length;

  DAGRUN_METHOD bool first() const { return threadIdx.x == 0; }
  template <class Body>
  DAGRUN_METHOD void each(Body body) const {
    for (i64 i = threadIdx.x; i < length; i += blockDim.x) body(i);
  }
  // All terms of the line combined: lanes in order, then the lanes by halving, then the elements left over.
  template <class Term, class Combine>
  DAGRUN_METHOD Wide reduce(Wide start, Term term, Combine combine) const {
    constexpr int LANES = Op::lanes();
    Wide* staged = reinterpret_cast<Wide*>(DAGRUN_SHARED);
    const i64 whole = length & -LANES, room = i64(STAGED) * blockDim.x;  // a multiple of LANES
    Wide total = start;
    for (i64 begin = 0; begin < whole; begin += room) {
      const i64 count = whole - begin < room ? whole - begin : room;
      for (i64 i = threadIdx.x; i < count; i += blockDim.x) staged[i] = term(begin + i);
      __syncthreads();
      if (threadIdx.x < LANES) {
#pragma unroll 4
        for (i64 i = threadIdx.x; i < count; i += LANES) total = combine(total, staged[i]);
      }
      __syncthreads();
    }
    if (threadIdx.x < LANES) staged[threadIdx.x] = total;
    if (threadIdx.x < length - whole) staged[LANES + threadIdx.x] = term(whole + threadIdx.x);
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int half = LANES / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) staged[i] = combine(staged[i], staged[i + half]);
      }
      Wide left = start;
      for (int i = 0; i < length - whole; i++) left = combine(left, staged[LANES + i]);
      staged[2 * LANES] = combine(staged[0], left);
    }
    __syncthreads();
    const Wide result = staged[2 * LANES];
    __syncthreads();
    return result;
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
    for (i64 i = 0; i < length; i++) body(i);
  }
  template <class Term, class Combine>
  DAGRUN_METHOD Wide reduce(Wide start, Term term, Combine combine) const {
    Wide total = start;
    for (i64 i = 0; i < length; i++) total = combine(total, term(i));
    return total;
  }
};

// Runs a kernel, the `lines` it goes over with a method `line(walker)`, in the way that their strides ask for. (A generic
// lambda would do, but for NVRTC it is a function of the host.)
template <class Op, class Kernel>
DAGRUN_INLINE void over_lines(Kernel lines) {
  if (lines.inner()) {
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

template <class Op>
struct Sum {
  DAGRUN_METHOD typename Op::Wide operator()(typename Op::Wide a, typename Op::Wide b) const { return a + b; }
};
template <class Op>
struct Maximum {
  DAGRUN_METHOD typename Op::Wide operator()(typename Op::Wide a, typename Op::Wide b) const {
    return Op::maximum(a, b);
  }
};

template <class Op>
DAGRUN_INLINE typename Op::Wide lowest() {
  if constexpr (sizeof(typename Op::Wide) == 4) {
    return bits_of<f32>(0xff800000u);
  } else {
    return bits_of<f64>(0xfff0000000000000ull);
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
    const Wide top = walk.reduce(lowest<Op>(), x, Maximum<Op>());
    auto power = [&](i64 i) { return Op::exp(x(i) - top); };
    const Wide total = walk.reduce(Wide(0), power, Sum<Op>());
    if constexpr (LOGARITHM) {
      const Wide logarithm = Op::log(total);
      walk.each([&](i64 i) { store(this->place(0, i), narrow<Dtype>(Wide(x(i) - top) - logarithm)); });
    } else {
      walk.each([&](i64 i) { store(this->place(0, i), narrow<Dtype>(power(i) / total)); });
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
    const Wide total = walk.reduce(
        Wide(0),
        [&](i64 i) {
          if constexpr (LOGARITHM) {
            return g(i);
          } else {
            return Wide(g(i) * y(i));
          }
        },
        Sum<Op>());
    walk.each([&](i64 i) {
      if constexpr (LOGARITHM) {
        store(this->place(0, i), narrow<Dtype>(g(i) - Wide(Op::exp(y(i)) * total)));
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
    const Wide top = walk.reduce(lowest<Op>(), x, Maximum<Op>());
    const Wide total = walk.reduce(Wide(0), [&](i64 i) { return Op::exp(x(i) - top); }, Sum<Op>());
    const Wide lse = top + Op::log(total), w = valid ? this->weight(own) : Wide(0);
    Wide loss = w * Wide(lse - x(valid ? own : 0));
    if (this->smoothing != Wide(0)) {
      const Wide gaps = walk.reduce(
          Wide(0), [&](i64 i) { return Wide(this->weight(i) * Wide(lse - x(i))); }, Sum<Op>());
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
      total = walk.reduce(Wide(0), [&](i64 i) { return this->weight(i); }, Sum<Op>());
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
