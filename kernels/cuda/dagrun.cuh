// What every CUDA kernel of dagrun is written with: its arguments, its types, its failures, and the walk over elements.
//
// A kernel has the meaning of a CPU body and the same params words (see dagrun/codegen/__init__.py). It is compiled by
// NVRTC with -fmad=false: no product is contracted with a sum, so that the bits are those of the CPU. Only the sign and
// payload of a NaN may differ. There are no other headers: float16 is converted here.
//
// tests/cuda/host.h compiles the same sources as C++ and runs them on the CPU; it defines DAGRUN_HOST.
#pragma once

#ifndef DAGRUN_HOST
// After the name: the most threads that a block of it is launched with and, where that matters, for how many such blocks at a
// time the registers must do. Without the first the compiler may take more than so many threads find, and the launch is refused.
#define DAGRUN_KERNEL(name, ...) \
  extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name(const __grid_constant__ dagrun::Call call)
#define DAGRUN_INLINE __device__ __forceinline__
#define DAGRUN_METHOD __device__ __forceinline__
#define DAGRUN_SHARED dagrun_shared  // the shared memory that the launch asks for
extern __shared__ __align__(16) char dagrun_shared[];
#endif

namespace dagrun {

using i8 = signed char;
using i16 = short;
using i32 = int;
using i64 = long long;
using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using f32 = float;
using f64 = double;
struct f16 {
  u16 bits;
};

constexpr int MOST_OPERANDS = 12, MOST_PARAMS = 112, MOST_SCALARS = 12;

// The argument of every kernel. `data`, `params` and `scalars` are those of a CPU body, by value; `error` points to five
// words that the host reads: a code, which is 0 as long as nothing failed, then its details.
struct Call {
  char* data[MOST_OPERANDS];
  i64 params[MOST_PARAMS];
  u64 scalars[MOST_SCALARS];
  i64* error;
};

// ---- bits

template <class To, class From>
DAGRUN_INLINE To bits_of(From value) {
  static_assert(sizeof(To) == sizeof(From), "bits_of keeps the size");
  union {
    From from;
    To to;
  } same;
  same.from = value;
  return same.to;
}

DAGRUN_INLINE f32 to_float(f16 value) {
#ifdef __CUDA_ARCH__
  f32 wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
#else
  const u32 sign = u32(value.bits & 0x8000) << 16, rest = u32(value.bits & 0x7fff) << 13;
  if (rest >= 0x0f800000) return bits_of<f32>(sign | 0x70000000 | rest);  // infinity, NaN
  // As the bits of a float, `rest` is the value times 2^-112: exact also where it is subnormal.
  return bits_of<f32>(sign | bits_of<u32>(bits_of<f32>(rest) * 0x1p+112f));
#endif
}

DAGRUN_INLINE f16 to_half(f32 value) {  // to nearest, ties to even
#ifdef __CUDA_ARCH__
  u16 half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
  return f16{half};
#else
  const u32 bits = bits_of<u32>(value), magnitude = bits & 0x7fffffff;
  const u16 sign = u16((bits >> 16) & 0x8000);
  if (magnitude > 0x7f800000) return f16{u16(sign | 0x7e00 | ((magnitude >> 13) & 0x3ff))};  // NaN
  if (magnitude >= 0x47800000) return f16{u16(sign | 0x7c00)};                               // 2^16 and more
  if (magnitude < 0x38800000) {  // below 2^-14: adding 0.5 rounds to a multiple of 2^-24
    return f16{u16(sign | (bits_of<u32>(bits_of<f32>(magnitude) + 0.5f) - 0x3f000000))};
  }
  return f16{u16(sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13))};
#endif
}

// ---- memory

template <class T>
constexpr bool is_bool = false;
template <>
constexpr bool is_bool<bool> = true;

template <class T>
DAGRUN_INLINE T load(const char* place) {
  if constexpr (is_bool<T>) {
    return *reinterpret_cast<const u8*>(place) != 0;  // any byte that is not 0
  } else {
    return *reinterpret_cast<const T*>(place);
  }
}
template <class T>
DAGRUN_INLINE void store(char* place, T value) {
  if constexpr (is_bool<T>) {
    *reinterpret_cast<u8*>(place) = value ? 1 : 0;
  } else {
    *reinterpret_cast<T*>(place) = value;
  }
}
template <class T>
DAGRUN_INLINE T scalar(const Call& call, int index) {  // its bits stand in the low bytes of its slot
  return load<T>(reinterpret_cast<const char*>(&call.scalars[index]));
}

// ---- failures

// The first thread that fails says so; which one that is, among several, may vary.
DAGRUN_INLINE void fail(i64* error, i64 code, i64 a = 0, i64 b = 0, i64 c = 0, i64 d = 0) {
  u64* words = reinterpret_cast<u64*>(error);
  if (atomicCAS(words, 0ull, ~0ull) != 0) return;
  error[1] = a;
  error[2] = b;
  error[3] = c;
  error[4] = d;
  __threadfence_system();
  *reinterpret_cast<volatile u64*>(words) = u64(code);
}

// ---- positions

// The number of this thread and of all of them, for loops over elements.
DAGRUN_INLINE i64 first_thread() { return i64(blockIdx.x) * blockDim.x + threadIdx.x; }
DAGRUN_INLINE i64 all_threads() { return i64(gridDim.x) * blockDim.x; }

// value = quotient * size + rest; none is negative. Division of 64 bits takes many instructions, of 32 bits few.
DAGRUN_INLINE void divide(i64 value, i64 size, i64& quotient, i64& rest) {
  if (u64(value | size) >> 32 == 0) {
    quotient = u32(value) / u32(size);
    rest = u32(value) - u32(quotient) * u32(size);
  } else {
    quotient = value / size;
    rest = value - quotient * size;
  }
}

DAGRUN_INLINE void divide(i32 value, i32 size, i32& quotient, i32& rest) {
  quotient = i32(u32(value) / u32(size));
  rest = value - quotient * size;
}

// The offsets of K operands at position `number` of `count` dimensions, which stand in `words` innermost first: size,
// then the stride of each operand (what layout.outer_words writes).
template <int K>
DAGRUN_INLINE void position(const i64* words, i64 count, i64 number, i64 (&offsets)[K]) {
#pragma unroll 1
  for (i64 d = 0; d < count; d++, words += 1 + K) {
    i64 at;
    if (d + 1 < count) {
      divide(number, words[0], number, at);
    } else {
      at = number;
    }
    for (int k = 0; k < K; k++) offsets[k] += at * words[1 + k];
  }
}

DAGRUN_INLINE i64 positions(const i64* words, i64 count, int operands) {
  i64 total = 1;
#pragma unroll 1
  for (i64 d = 0; d < count; d++) total *= words[d * (1 + operands)];
  return total;
}

// ---- elements

// V elements that lie side by side, at a place that is a multiple of their size: one access of up to 16 bytes.
template <class T, int V>
struct alignas(V * sizeof(T)) Pack {
  T of[V];
};
template <int V>
struct alignas(V) Pack<bool, V> {
  u8 of[V];
};
template <class T, int V>
DAGRUN_INLINE void load(const char* place, T (&values)[V]) {
  const Pack<T, V> pack = *reinterpret_cast<const Pack<T, V>*>(place);
#pragma unroll
  for (int j = 0; j < V; j++) values[j] = load<T>(reinterpret_cast<const char*>(&pack.of[j]));
}
template <class T, int V>
DAGRUN_INLINE void store(char* place, const T (&values)[V]) {
  Pack<T, V> pack;
#pragma unroll
  for (int j = 0; j < V; j++) store<T>(reinterpret_cast<char*>(&pack.of[j]), values[j]);
  *reinterpret_cast<Pack<T, V>*>(place) = pack;
}

// The elements of Op::OPERANDS strided operands of one shape, V at a time: those lie side by side, or are one (its stride
// is 0); params as in codegen/elementwise.py.
template <class Op, int V>
struct Elements {
  static constexpr int K = Op::OPERANDS;
  const Call& call;
  char* at[K];

  DAGRUN_METHOD explicit Elements(const Call& call_) : call(call_) {}
  DAGRUN_METHOD i64 step(int k) const { return call.params[2 + k]; }
  DAGRUN_METHOD static i64 total(const Call& call) {
    return call.params[0] * positions(call.params + 2 + K, call.params[1], K);
  }
  // Whether all groups of V are such; behind them, fewer than V elements of the only row may be left.
  DAGRUN_METHOD bool fits() const {
    const i64 dims = call.params[1];
    bool fit = dims == 0 || call.params[0] % V == 0;
#pragma unroll
    for (int k = 0; k < K; k++) {
      if (step(k) == 0) continue;
      u64 places = u64(call.data[k]);
#pragma unroll 1
      for (i64 d = 0; d < dims; d++) places |= u64(call.params[2 + K + d * (1 + K) + 1 + k]);
      fit = fit && step(k) == Op::size(k) && places % (V * Op::size(k)) == 0;
    }
    return fit;
  }
  DAGRUN_METHOD void move(i64 number) {
    i64 offsets[K] = {}, inner = number;
    if (call.params[1] > 0) {
      i64 row;
      divide(number, call.params[0] / V, row, inner);
      position<K>(call.params + 2 + K, call.params[1], row, offsets);
    }
#pragma unroll
    for (int k = 0; k < K; k++) {
      const i64 along = V == 1 ? inner * step(k) : step(k) == 0 ? 0 : inner * (V * Op::size(k));
      at[k] = call.data[k] + (offsets[k] + along);
    }
  }
  template <class T>
  DAGRUN_METHOD void get(int k, T (&values)[V]) const {
    if (V > 1 && step(k) == 0) {
      const T only = load<T>(at[k]);
#pragma unroll
      for (int j = 0; j < V; j++) values[j] = only;
    } else {
      load(at[k], values);
    }
  }
  template <class T>
  DAGRUN_METHOD void put(int k, const T (&values)[V]) const {
    store(at[k], values);
  }
};

// Op: OPERANDS, size(operand) in bytes, WIDTH (how many elements at most at a time); compute(Elements).
template <class Op>
DAGRUN_INLINE void elementwise(const Call& call) {
  const Op op(call);
  const i64 total = Elements<Op, 1>::total(call);
  i64 done = 0;
  Elements<Op, Op::WIDTH> wide(call);
  if (Op::WIDTH > 1 && wide.fits()) {
    done = total / Op::WIDTH * Op::WIDTH;
    for (i64 i = first_thread(); i < total / Op::WIDTH; i += all_threads()) {
      wide.move(i);
      op.compute(wide);
    }
  }
  Elements<Op, 1> walk(call);
  for (i64 i = done + first_thread(); i < total; i += all_threads()) {
    walk.move(i);
    op.compute(walk);
  }
}

// The same for sets of contiguous arrays, one set after the other; params as in codegen/updates.py.
//
// Op: OPERANDS (of a set), SHARED (operands before them), size(operand), WIDTH; compute<V>(operands of the set, element).
template <class Op>
DAGRUN_INLINE void update(const Call& call) {
  const Op op(call);
  for (i64 set = 0; set < call.params[0]; set++) {
    char* const* data = call.data + (Op::SHARED + set * Op::OPERANDS);
    const i64 count = call.params[1 + set];
    bool fits = Op::WIDTH > 1;
#pragma unroll
    for (int k = 0; k < Op::OPERANDS; k++) fits = fits && u64(data[k]) % (Op::WIDTH * Op::size(k)) == 0;
    const i64 done = fits ? count / Op::WIDTH * Op::WIDTH : 0;
    for (i64 i = first_thread() * Op::WIDTH; i < done; i += all_threads() * Op::WIDTH) {
      op.template compute<Op::WIDTH>(data, i);
    }
    for (i64 i = done + first_thread(); i < count; i += all_threads()) op.template compute<1>(data, i);
  }
}

}  // namespace dagrun
