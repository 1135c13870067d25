// Convolutions as products whose columns are read where they lie and never made (implicit GEMM).
//
//     result[m, n] = sum over k of left[m, k] * right[k, n], for each group
//
//     convolve_images    m: outputs; n: places of all images; k: places of the kernel, for each of them the channels.
//                        left: the weight as `pack_weights` lays it; right: the images.
//     convolve_weights   m: outputs; n: channels and places of the kernel, as a weight lies; k: places of all images,
//                        cut into parts, each with a result of its own. left: results; right: the images.
//
// A block of threads makes a tile of the result. It goes along k by `RUNS` runs at a time: a run is 16 bytes of
// neighbours along k, which one thread fetches, so that where they lie is worked out once for each run. While a tile of
// both sides is multiplied from shared memory, the next one is fetched into registers.
//
// Sums are float32, in ascending k: by fused multiply-add, or on tensor cores, in whose order. The host is told the same
// tiles and strides by dagrun/codegen/cuda/implicit_gemm.py, which describes the params.
//
// Op: Multiply, Plain<...> or Tensor<...>.
#pragma once
#include "dagrun.cuh"

namespace dagrun {

template <class T>
constexpr int RUN = 16 / int(sizeof(T));

template <class T>
struct alignas(16) Run {
  T value[RUN<T>];
};

constexpr int OUTSIDE = -(1 << 30);  // a row that no shift brings into an image

// The params block of both kernels. "source" is what windows are read from.
struct Product {
  i64 images, groups;
  int outputs, channels, padded, tiles, rows, columns, kernel_rows, kernel_columns, out_rows, out_columns;
  int row_step, column_step, row_shift, column_shift, top, left;
  i64 source_image, source_group;
  int source_channel, source_row, source_column;
  i64 result_image, result_group, result_channel, result_row, result_column;
  DAGRUN_METHOD explicit Product(const i64* p) {
    images = p[0], groups = p[1], outputs = int(p[2]), channels = int(p[3]), padded = int(p[4]), tiles = int(p[5]);
    rows = int(p[6]), columns = int(p[7]), kernel_rows = int(p[8]), kernel_columns = int(p[9]);
    out_rows = int(p[10]), out_columns = int(p[11]), row_step = int(p[12]), column_step = int(p[13]);
    row_shift = int(p[14]), column_shift = int(p[15]), top = int(p[16]), left = int(p[17]);
    source_image = p[18], source_group = p[19];
    source_channel = int(p[20]), source_row = int(p[21]), source_column = int(p[22]);
    result_image = p[23], result_group = p[24], result_channel = p[25], result_row = p[26], result_column = p[27];
  }
  DAGRUN_METHOD int places() const { return out_rows * out_columns; }
};

// ---- products of a tile. `keep_...` puts a run into shared memory; `add` multiplies what all threads have put there;
// `each(locate, write)` gives out the results, `WIDTH` neighbouring columns at a time.

// By fused multiply-add. In shared memory neighbours along k are lines apart. The threads of a warp lie 4 x 8; each has
// 8 x 8 results, in each direction two times four neighbours.
template <int ROWS_, int COLUMNS_>
struct Plain {
  using Dtype = f32;
  static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, THREADS = ROWS * COLUMNS / 64;
  static constexpr int RUNS = 2, DEPTH = 8, WIDTH = 4, ACROSS = COLUMNS / 64;  // ACROSS: warps
  static constexpr int LEFT = ROWS + 4, RIGHT = COLUMNS + 4;  // floats of a line: 4 more, so that no two writes meet
  static constexpr int TILE = 4 * DEPTH * (LEFT + RIGHT);     // bytes
  f32 total[8][8] = {};
  int row, column;

  DAGRUN_METHOD Plain() {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    row = (warp / ACROSS * 4 + lane / 8) * 4, column = (warp % ACROSS * 8 + lane % 8) * 4;
  }
  template <int LINE>
  static DAGRUN_METHOD void keep(char* tile, int row, int run, const Run<f32>& x) {
    f32* place = reinterpret_cast<f32*>(tile) + run * 4 * LINE + row;
#pragma unroll
    for (int q = 0; q < 4; q++) place[q * LINE] = x.value[q];
  }
  static DAGRUN_METHOD void keep_left(char* tile, int row, int run, const Run<f32>& x) { keep<LEFT>(tile, row, run, x); }
  static DAGRUN_METHOD void keep_right(char* tile, int column, int run, const Run<f32>& x) {
    keep<RIGHT>(tile + 4 * DEPTH * LEFT, column, run, x);
  }
  DAGRUN_METHOD void add(const char* tile) {
    const f32 *left = reinterpret_cast<const f32*>(tile) + row;
    const f32 *right = reinterpret_cast<const f32*>(tile) + DEPTH * LEFT + column;
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
      Run<f32> a[2], b[2];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        a[half] = *reinterpret_cast<const Run<f32>*>(left + k * LEFT + half * (ROWS / 2));
        b[half] = *reinterpret_cast<const Run<f32>*>(right + k * RIGHT + half * (COLUMNS / 2));
      }
#pragma unroll
      for (int i = 0; i < 8; i++) {
#pragma unroll
        for (int j = 0; j < 8; j++) {
          total[i][j] = __fmaf_rn(a[i / 4].value[i % 4], b[j / 4].value[j % 4], total[i][j]);
        }
      }
    }
  }
  template <class Locate, class Write>
  DAGRUN_METHOD void each(const Locate& locate, const Write& write) const {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const auto at = locate(column + half * (COLUMNS / 2));
#pragma unroll
      for (int i = 0; i < 8; i++) write(row + i / 4 * (ROWS / 2) + i % 4, at, total[i] + 4 * half);
    }
  }
};

// d += a @ b, a fragment of each for each thread of a warp: 16 x 8 results, sums of 16 products of float16 or 8 of float32
// rounded to TF32. The layout of fragments is that of mma.m16n8k16 and m16n8k8 (PTX ISA, "Matrix fragments").
#ifdef DAGRUN_HOST
template <class Dtype>
DAGRUN_INLINE void multiply_fragments(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  dagrun_host::multiply_fragments(d, a, b, sizeof(Dtype) == 2, __LINE__);
}
DAGRUN_INLINE f32 to_tf32(f32 x) { return dagrun_host::to_tf32(x); }
#else
template <class Dtype>
DAGRUN_INLINE void multiply_fragments(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  if constexpr (sizeof(Dtype) == 2) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    for (int half = 0; half < 2; half++) {
      asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
          : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
    }
#endif
  } else {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else  // has no TF32: full float32, handed from thread to thread
    const int lane = threadIdx.x % 32, row = lane & ~3, column = lane % 4 * 8;
#pragma unroll 1
    for (int k = 0; k < 8; k++) {
      const bool high = k >= 4;
      const f32 upper = bits_of<f32>(__shfl_sync(~0u, high ? a[2] : a[0], row + k % 4));
      const f32 lower = bits_of<f32>(__shfl_sync(~0u, high ? a[3] : a[1], row + k % 4));
      const f32 one = bits_of<f32>(__shfl_sync(~0u, high ? b[1] : b[0], column + k % 4));
      const f32 other = bits_of<f32>(__shfl_sync(~0u, high ? b[1] : b[0], column + 4 + k % 4));
      d[0] = __fmaf_rn(upper, one, d[0]), d[1] = __fmaf_rn(upper, other, d[1]);
      d[2] = __fmaf_rn(lower, one, d[2]), d[3] = __fmaf_rn(lower, other, d[3]);
    }
#endif
  }
}
DAGRUN_INLINE f32 to_tf32(f32 x) {
#if __CUDA_ARCH__ >= 800
  u32 rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(x));
  return bits_of<f32>(rounded);
#else
  return x;
#endif
}
#endif

// On tensor cores. In shared memory neighbours along k lie side by side, as fragments want them; each warp has 64 x 32
// results.
template <class Dtype_, int ROWS_, int COLUMNS_>
struct Tensor {
  using Dtype = Dtype_;
  static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, THREADS = ROWS * COLUMNS / 64;
  static constexpr int RUNS = 4, DEPTH = RUNS * RUN<Dtype>, WIDTH = 2, ACROSS = COLUMNS / 32;
  static constexpr int LINE = 4 * RUNS + 4;  // words of a row: 4 more, so that no two reads of a fragment meet
  static constexpr int TILE = 4 * LINE * (ROWS + COLUMNS);
  f32 total[4][4][4] = {};
  int row, column, lane;

  DAGRUN_METHOD Tensor() {
    const int warp = threadIdx.x / 32;
    lane = threadIdx.x % 32, row = warp / ACROSS * 64, column = warp % ACROSS * 32;
  }
  static DAGRUN_METHOD void keep_left(char* tile, int row, int run, const Run<Dtype>& x) {
    Run<Dtype> kept = x;
    if constexpr (sizeof(Dtype) == 4) {
#pragma unroll
      for (int q = 0; q < RUN<Dtype>; q++) kept.value[q] = to_tf32(x.value[q]);
    }
    *reinterpret_cast<Run<Dtype>*>(tile + 4 * (row * LINE + 4 * run)) = kept;
  }
  static DAGRUN_METHOD void keep_right(char* tile, int column, int run, const Run<Dtype>& x) {
    keep_left(tile, ROWS + column, run, x);
  }
  DAGRUN_METHOD void add(const char* tile) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const u32* left = reinterpret_cast<const u32*>(tile) + (row + lane / 4) * LINE + half * 8 + lane % 4;
      const u32* right = left + (ROWS + column - row) * LINE;
      u32 a[4][4], b[4][2];
#pragma unroll
      for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int part = 0; part < 4; part++) a[i][part] = left[(16 * i + part % 2 * 8) * LINE + part / 2 * 4];
#pragma unroll
        for (int part = 0; part < 2; part++) b[i][part] = right[8 * i * LINE + part * 4];
      }
#pragma unroll
      for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) multiply_fragments<Dtype>(total[i][j], a[i], b[j]);
      }
    }
  }
  template <class Locate, class Write>
  DAGRUN_METHOD void each(const Locate& locate, const Write& write) const {
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const auto at = locate(column + 8 * j + lane % 4 * 2);
#pragma unroll
      for (int i = 0; i < 8; i++) write(row + 8 * i + lane / 4, at, total[i / 2][j] + i % 2 * 2);
    }
  }
};

// ---- the product of what a source fetches

// `fetch` gives each thread its runs of the next tile; which rows and runs those are, `left_...` and `right_...` say.
template <class Multiply, class Source>
DAGRUN_INLINE void multiply(Multiply& result, Source& source, int tiles) {
  if (tiles == 0) return;
  using Fetched = Run<typename Multiply::Dtype>;
  constexpr int THREADS = Multiply::THREADS;
  constexpr int LEFT = Multiply::ROWS * Multiply::RUNS / THREADS, RIGHT = Multiply::COLUMNS * Multiply::RUNS / THREADS;
  Fetched left[LEFT], right[RIGHT];
  auto keep = [&](char* tile) {
#pragma unroll
    for (int s = 0; s < LEFT; s++) {
      const int index = threadIdx.x + s * THREADS;
      Multiply::keep_left(tile, index / Multiply::RUNS, index % Multiply::RUNS, left[s]);
    }
#pragma unroll
    for (int s = 0; s < RIGHT; s++) {
      const int index = threadIdx.x + s * THREADS;
      Multiply::keep_right(tile, Source::right_row(index), Source::right_run(index), right[s]);
    }
  };
  char* shared = DAGRUN_SHARED;
  source.fetch(left, right);
  keep(shared);
  __syncthreads();
#pragma unroll 1
  for (int tile = 0; tile < tiles; tile++) {
    const bool more = tile + 1 < tiles;
    if (more) source.fetch(left, right);
    result.add(shared + tile % 2 * Multiply::TILE);
    if (more) {
      keep(shared + (tile + 1) % 2 * Multiply::TILE);  // which nobody has read since the barrier before
      __syncthreads();
    }
  }
}

// Offsets of neighbouring results; -1 where there is none.
template <int WIDTH>
struct Offsets {
  i64 at[WIDTH];
};

template <class Dtype, int WIDTH>
DAGRUN_INLINE void write_results(char* base, const Offsets<WIDTH>& to, const f32* values, f32 bias) {
  struct alignas(WIDTH * sizeof(Dtype)) Whole {
    Dtype value[WIDTH];
  } whole;
#pragma unroll
  for (int k = 0; k < WIDTH; k++) {
    if constexpr (sizeof(Dtype) == 2) {
      whole.value[k] = to_half(values[k] + bias);
    } else {
      whole.value[k] = values[k] + bias;
    }
  }
  const bool together = to.at[0] >= 0 && to.at[WIDTH - 1] == to.at[0] + i64((WIDTH - 1) * sizeof(Dtype));
  if (together && (u64(base + to.at[0]) & (sizeof(Whole) - 1)) == 0) {
    *reinterpret_cast<Whole*>(base + to.at[0]) = whole;
    return;
  }
#pragma unroll
  for (int k = 0; k < WIDTH; k++) {
    if (to.at[k] >= 0) store(base + to.at[k], whole.value[k]);
  }
}

// ---- images

// packed, w: a weight with its channels innermost, filled up with zeros: outputs to whole tiles, channels to whole runs,
// their sum to whole tiles.
template <class Op>
DAGRUN_INLINE void pack_weights(const Call& call) {
  using Dtype = typename Op::Dtype;
  const i64* p = call.params;
  const i64 groups = p[0], outputs = p[1], padded_outputs = p[2], channels = p[3], padded = p[4], depth = p[5];
  const i64 kernel_rows = p[6], kernel_columns = p[7];
  for (i64 n = first_thread(); n < groups * padded_outputs * depth; n += all_threads()) {
    i64 rest, k, group, m, tap, channel, i, j;
    divide(n, depth, rest, k);
    divide(rest, padded_outputs, group, m);
    divide(k, padded, tap, channel);
    divide(tap, kernel_columns, i, j);
    Dtype value{};
    if (m < outputs && channel < channels && i < kernel_rows) {
      value = load<Dtype>(call.data[1] + p[13] + group * p[8] + m * p[9] + channel * p[10] + i * p[11] + j * p[12]);
    }
    store(call.data[0] + n * i64(sizeof(Dtype)), value);
  }
}

template <class Multiply>
struct Images {
  using Dtype = typename Multiply::Dtype;
  static constexpr int COLUMNS = Multiply::COLUMNS, THREADS = Multiply::THREADS, RUNS = Multiply::RUNS;
  static constexpr int LEFT = Multiply::ROWS * RUNS / THREADS, RIGHT = COLUMNS * RUNS / THREADS;
  static_assert(THREADS % COLUMNS == 0, "all runs of a thread belong to one place");
  const Product& w;
  const char *packed, *own;
  i64 next_row;             // bytes between the rows of `packed` that a thread fetches
  int top, left;            // of the window, in the image
  int channel[RIGHT], i[RIGHT], j[RIGHT];

  static DAGRUN_METHOD int right_row(int index) { return index % COLUMNS; }
  static DAGRUN_METHOD int right_run(int index) { return index / COLUMNS; }

  DAGRUN_METHOD Images(const Product& w_, const Call& call, i64 group, i64 tile_row, i64 rows, i64 column) : w(w_) {
    const i64 depth = i64(w.tiles) * RUNS * 16;
    packed = call.data[1] + ((group * rows + tile_row) * Multiply::ROWS + threadIdx.x / RUNS) * depth;
    packed += threadIdx.x % RUNS * 16;
    next_row = THREADS / RUNS * depth;
    const i64 n = column + right_row(threadIdx.x);
    i64 image, place, down, across;
    divide(n, w.places(), image, place);
    divide(place, w.out_columns, down, across);
    own = call.data[2] + group * w.source_group + image * w.source_image;
    top = image < w.images ? int(down) * w.row_step - w.top : OUTSIDE;
    left = int(across) * w.column_step - w.left;
#pragma unroll
    for (int s = 0; s < RIGHT; s++) {
      channel[s] = right_run(threadIdx.x + s * THREADS) * RUN<Dtype>, i[s] = j[s] = 0;
      settle(s);
    }
  }
  DAGRUN_METHOD void settle(int s) {
    while (channel[s] >= w.padded) {
      channel[s] -= w.padded;
      if (++j[s] == w.kernel_columns) j[s] = 0, i[s]++;
    }
  }
  DAGRUN_METHOD void fetch(Run<Dtype> (&a)[LEFT], Run<Dtype> (&b)[RIGHT]) {
#pragma unroll
    for (int s = 0; s < LEFT; s++) a[s] = *reinterpret_cast<const Run<Dtype>*>(packed + s * next_row);
    packed += RUNS * 16;
#pragma unroll
    for (int s = 0; s < RIGHT; s++) {
      const int r = top + i[s] * w.row_shift, c = left + j[s] * w.column_shift;
      const bool inside = i[s] < w.kernel_rows && u32(r) < u32(w.rows) && u32(c) < u32(w.columns);
      const int count = inside ? w.channels - channel[s] : 0;
      const char* at = own + i64(r) * w.source_row + i64(c) * w.source_column + i64(channel[s]) * w.source_channel;
#pragma unroll
      for (int q = 0; q < RUN<Dtype>; q++, at += w.source_channel) b[s].value[q] = q < count ? load<Dtype>(at) : Dtype{};
      channel[s] += Multiply::DEPTH;
      settle(s);
    }
  }
};

// y, packed, x [, bias]: a convolution, or its adjoint in the image, for which y is the image and x the results.
template <class Op>
DAGRUN_INLINE void convolve_images(const Call& call) {
  using Multiply = typename Op::Multiply;
  using Dtype = typename Multiply::Dtype;
  const Product w(call.params);
  const i64 rows = (w.outputs + Multiply::ROWS - 1) / Multiply::ROWS;
  const i64 count = w.images * w.places(), columns = (count + Multiply::COLUMNS - 1) / Multiply::COLUMNS;
  i64 rest, group, tile_row, tile_column;
  divide(blockIdx.x, rows, rest, tile_row);  // blocks side by side read the same images
  divide(rest, columns, group, tile_column);
  if (group >= w.groups) return;
  Images<Multiply> source(w, call, group, tile_row, rows, tile_column * Multiply::COLUMNS);
  Multiply result;
  multiply(result, source, w.tiles);
  char* out = call.data[0] + group * w.result_group;
  auto locate = [&](int column) {
    Offsets<Multiply::WIDTH> to;
#pragma unroll
    for (int k = 0; k < Multiply::WIDTH; k++) {
      const i64 n = tile_column * Multiply::COLUMNS + column + k;
      i64 image, place, down, across;
      divide(n, w.places(), image, place);
      divide(place, w.out_columns, down, across);
      to.at[k] = n < count ? image * w.result_image + down * w.result_row + across * w.result_column : -1;
    }
    return to;
  };
  const bool biased = call.params[28] != 0;
  result.each(locate, [&](int row, const Offsets<Multiply::WIDTH>& to, const f32* values) {
    const i64 m = tile_row * Multiply::ROWS + row;
    if (m >= w.outputs) return;
    f32 bias = 0;
    if (biased) {
      const Dtype own = load<Dtype>(call.data[3] + (group * w.outputs + m) * i64(sizeof(Dtype)));
      if constexpr (sizeof(Dtype) == 2) {
        bias = to_float(own);
      } else {
        bias = own;
      }
    }
    write_results<Dtype>(out + m * w.result_channel, to, values, bias);
  });
}

// ---- weights

// Runs are numbered through all images; each image has `padded` of them, so that none belongs to two.
template <class Multiply>
struct Weights {
  using Dtype = typename Multiply::Dtype;
  static constexpr int THREADS = Multiply::THREADS, RUNS = Multiply::RUNS, EVERY = THREADS / RUNS;
  static constexpr int LEFT = Multiply::ROWS * RUNS / THREADS, RIGHT = Multiply::COLUMNS * RUNS / THREADS;
  static_assert(THREADS % RUNS == 0, "all runs of a thread have one place along k");
  const Product& w;
  const char *results, *images;
  i64 image, runs_left;
  int run, row;
  i64 plane[RIGHT];
  int top[RIGHT], left[RIGHT];

  static DAGRUN_METHOD int right_row(int index) { return index / RUNS; }
  static DAGRUN_METHOD int right_run(int index) { return index % RUNS; }

  DAGRUN_METHOD Weights(const Product& w_, const Call& call, i64 group, i64 first_row, i64 first_column, i64 first, i64 after)
      : w(w_) {
    const i64 start = first + threadIdx.x % RUNS;
    i64 at;
    divide(start, w.padded, image, at);
    run = int(at), runs_left = after - start;
    row = int(first_row) + threadIdx.x / RUNS;
    results = call.data[1] + group * w.result_group + row * w.result_channel;
    images = call.data[2] + group * w.source_group;
#pragma unroll
    for (int s = 0; s < RIGHT; s++) {
      const i64 n = first_column + threadIdx.x / RUNS + s * EVERY;
      i64 rest, channel, i, j;
      divide(n, w.kernel_columns, rest, j);
      divide(rest, w.kernel_rows, channel, i);
      plane[s] = channel * w.source_channel;
      top[s] = channel < w.channels ? int(i) * w.row_shift - w.top : OUTSIDE;
      left[s] = int(j) * w.column_shift - w.left;
    }
  }
  DAGRUN_METHOD void fetch(Run<Dtype> (&a)[LEFT], Run<Dtype> (&b)[RIGHT]) {
    constexpr int LENGTH = RUN<Dtype>;
    const int place = run * LENGTH;
    int down = int(u32(place) / u32(w.out_columns)), across = place - down * w.out_columns;
    const int rest = w.places() - place, count = runs_left <= 0 ? 0 : rest < LENGTH ? rest : LENGTH;
    const char* line = results + image * w.result_image + place * i64(sizeof(Dtype));
#pragma unroll
    for (int s = 0; s < LEFT; s++, line += EVERY * w.result_channel) {
      const int own = row + s * EVERY < w.outputs ? count : 0;
      if (own == LENGTH && (u64(line) & 15) == 0) {
        a[s] = *reinterpret_cast<const Run<Dtype>*>(line);
      } else {
#pragma unroll
        for (int q = 0; q < LENGTH; q++) a[s].value[q] = q < own ? load<Dtype>(line + q * i64(sizeof(Dtype))) : Dtype{};
      }
    }
    const char* source = images + image * w.source_image;
#pragma unroll
    for (int q = 0; q < LENGTH; q++) {
#pragma unroll
      for (int s = 0; s < RIGHT; s++) {
        const int r = down * w.row_step + top[s], c = across * w.column_step + left[s];
        const bool inside = q < count && u32(r) < u32(w.rows) && u32(c) < u32(w.columns);
        const char* at = source + plane[s] + i64(r) * w.source_row + i64(c) * w.source_column;
        b[s].value[q] = inside ? load<Dtype>(at) : Dtype{};
      }
      if (++across == w.out_columns) across = 0, down++;
    }
    runs_left -= RUNS;
    for (run += RUNS; run >= w.padded; run -= w.padded) image++;
  }
};

// partial weights (float32), y, x: for each part a weight of its own.
template <class Op>
DAGRUN_INLINE void convolve_weights(const Call& call) {
  using Multiply = typename Op::Multiply;
  const Product w(call.params);
  const i64 taps = i64(w.channels) * w.kernel_rows * w.kernel_columns, parts = w.tiles;
  const i64 rows = (w.outputs + Multiply::ROWS - 1) / Multiply::ROWS;
  const i64 columns = (taps + Multiply::COLUMNS - 1) / Multiply::COLUMNS;
  i64 rest, part, group, tile_row, tile_column;
  divide(blockIdx.x, rows, rest, tile_row);
  divide(rest, columns, rest, tile_column);
  divide(rest, w.groups, part, group);
  if (part >= parts) return;
  const i64 runs = w.images * w.padded, first = runs * part / parts, after = runs * (part + 1) / parts;
  Weights<Multiply> source(w, call, group, tile_row * Multiply::ROWS, tile_column * Multiply::COLUMNS, first, after);
  Multiply result;
  multiply(result, source, int((after - first + Multiply::RUNS - 1) / Multiply::RUNS));
  char* out = call.data[0] + ((part * w.groups + group) * w.outputs) * taps * 4;
  auto locate = [&](int column) {
    Offsets<Multiply::WIDTH> to;
#pragma unroll
    for (int k = 0; k < Multiply::WIDTH; k++) {
      const i64 n = tile_column * Multiply::COLUMNS + column + k;
      to.at[k] = n < taps ? n * 4 : -1;
    }
    return to;
  };
  result.each(locate, [&](int row, const Offsets<Multiply::WIDTH>& to, const f32* values) {
    const i64 m = tile_row * Multiply::ROWS + row;
    if (m < w.outputs) write_results<f32>(out + m * taps * 4, to, values, 0.0f);
  });
}

}  // namespace dagrun
