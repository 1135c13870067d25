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
  const u32 sign = u32(value.bits & 0x8000) << 16, rest = u32(value.bits & 0x7fff) << 13;
  if (rest >= 0x0f800000) return bits_of<f32>(sign | 0x70000000 | rest);  // infinity, NaN
  // As the bits of a float, `rest` is the value times 2^-112: exact also where it is subnormal.
  return bits_of<f32>(sign | bits_of<u32>(bits_of<f32>(rest) * 0x1p+112f));
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

// The elements of K strided operands of one shape; params as in codegen/elementwise.py.
template <int K>
struct Elements {
  const Call& call;
  i64 total;
  char* at[K];

  DAGRUN_METHOD explicit Elements(const Call& call_) : call(call_) {
    total = call.params[0] * positions(call.params + 2 + K, call.params[1], K);
  }
  DAGRUN_METHOD void move(i64 number) {
    i64 offsets[K] = {}, inner = number;
    if (call.params[1] > 0) {
      i64 row;
      divide(number, call.params[0], row, inner);
      position<K>(call.params + 2 + K, call.params[1], row, offsets);
    }
    for (int k = 0; k < K; k++) at[k] = call.data[k] + (offsets[k] + inner * call.params[2 + k]);
  }
};

}  // namespace dagrun
