// A stable sort of items by their upper halves, a digit after the other, from the lowest: an item is a number to sort by
// in its upper 32 bits and what goes with it in its lower ones.
//
// Three launches for each digit: every block of threads counts the digits of its tile of items (`count_digits`), a block
// for each digit finds how many of it the tiles before have (`add_tiles`), and every block moves its items to their places
// (`move_items`). Within a tile each warp has a segment of its own, whose items it takes in order, 32 at a time; those
// that share a digit find each other by ballots. Only counts are added atomically, for which no order matters.
//
// Params: number of items, length of a tile (a multiple of what the threads of a block take at once), lowest bit of the
// digit in an item. Counts: of each digit and tile, digit by digit; then, of `add_tiles`, of each digit.
#pragma once
#include "dagrun.cuh"

namespace dagrun {

constexpr int DIGIT_BITS = 8, DIGITS = 1 << DIGIT_BITS, AT_ONCE = 4;

// The threads of a warp whose digit is this thread's.
DAGRUN_INLINE u32 peers_of(u32 digit, bool inside) {
  u32 peers = __ballot_sync(0xffffffffu, inside);
#pragma unroll
  for (int bit = 0; bit < DIGIT_BITS; bit++) {
    const bool set = (digit >> bit & 1) != 0;
    const u32 same = __ballot_sync(0xffffffffu, set);
    peers &= set ? same : ~same;
  }
  return peers;
}

// The items of a warp: its segment of a tile.
struct Segment {
  const u64* items;
  i64 first, after;
  int shift;

  DAGRUN_METHOD Segment(const Call& call, const char* data) : items(reinterpret_cast<const u64*>(data)) {
    const i64 count = call.params[0], tile = call.params[1], each = tile / (blockDim.x / 32);
    shift = int(call.params[2]);
    first = blockIdx.x * tile + threadIdx.x / 32 * each;
    after = first + each < count ? first + each : count;
  }
  // body(item, digit, whether there is one) for each item, in order, by all threads of the warp together.
  template <class Body>
  DAGRUN_METHOD void each(Body body) const {
    const u32 lane = threadIdx.x % 32;
    for (i64 start = first; start < after; start += 32 * AT_ONCE) {
      u64 own[AT_ONCE];
#pragma unroll
      for (int k = 0; k < AT_ONCE; k++) {
        const i64 i = start + 32 * k + lane;
        own[k] = i < after ? items[i] : 0;
      }
#pragma unroll
      for (int k = 0; k < AT_ONCE; k++) {
        body(own[k], u32(own[k] >> shift) % DIGITS, start + 32 * k + lane < after);
      }
    }
  }
  // How many of each digit there are, into `counts`; a barrier before they are read.
  DAGRUN_METHOD void count(u32* counts) const {
    for (int digit = threadIdx.x % 32; digit < DIGITS; digit += 32) counts[digit] = 0;
    __syncwarp();
    each([&](u64, u32 digit, bool inside) {
      if (inside) atomicAdd(&counts[digit], 1u);
    });
  }
};

// Data: counts, items.
template <class Op>
DAGRUN_INLINE void count_digits(const Call& call) {
  u32* counts = reinterpret_cast<u32*>(DAGRUN_SHARED);  // of each warp
  const unsigned warp = threadIdx.x / 32, warps = blockDim.x / 32;
  Segment(call, call.data[1]).count(counts + warp * DIGITS);
  __syncthreads();
  for (unsigned digit = threadIdx.x; digit < DIGITS; digit += blockDim.x) {
    u32 total = 0;
    for (unsigned w = 0; w < warps; w++) total += counts[w * DIGITS + digit];
    store(call.data[0] + (i64(digit) * gridDim.x + blockIdx.x) * i64(sizeof(u32)), total);
  }
}

// The sum of the values of the threads before, of a block; `shared` has a word for each thread.
DAGRUN_INLINE u32 sum_before(u32* shared, u32 value) {
  u32 total = value;
  for (unsigned step = 1; step < blockDim.x; step *= 2) {
    shared[threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.x >= step) total += shared[threadIdx.x - step];
    __syncthreads();
  }
  return total - value;
}

// Data: counts. Params: the number of tiles, at most as many as threads. A block of threads for each digit.
template <class Op>
DAGRUN_INLINE void add_tiles(const Call& call) {
  u32* counts = reinterpret_cast<u32*>(call.data[0]);
  const unsigned tiles = unsigned(call.params[0]);
  u32* own = counts + i64(blockIdx.x) * tiles;
  const u32 value = threadIdx.x < tiles ? own[threadIdx.x] : 0;
  const u32 before = sum_before(reinterpret_cast<u32*>(DAGRUN_SHARED), value);
  if (threadIdx.x < tiles) own[threadIdx.x] = before;
  if (threadIdx.x + 1 == blockDim.x) counts[i64(DIGITS) * tiles + blockIdx.x] = before + value;
}

// Data: items in order, items, counts.
template <class Op>
DAGRUN_INLINE void move_items(const Call& call) {
  u32* starts = reinterpret_cast<u32*>(DAGRUN_SHARED);  // of each warp: where its next item of each digit belongs
  const u32* counts = reinterpret_cast<const u32*>(call.data[2]);
  u64* moved = reinterpret_cast<u64*>(call.data[0]);
  const unsigned self = threadIdx.x, warps = blockDim.x / 32;
  u32* own = starts + self / 32 * DIGITS;
  const Segment segment(call, call.data[1]);
  segment.count(own);
  // No block has fewer threads than there are digits.
  const u32 before = sum_before(starts + warps * DIGITS, self < DIGITS ? counts[i64(DIGITS) * gridDim.x + self] : 0);
  if (self < DIGITS) {
    u32 start = before + counts[i64(self) * gridDim.x + blockIdx.x];
    for (unsigned w = 0; w < warps; w++) {
      const u32 count = starts[w * DIGITS + self];
      starts[w * DIGITS + self] = start;
      start += count;
    }
  }
  __syncthreads();
  const u32 lower = (1u << self % 32) - 1;
  segment.each([&](u64 item, u32 digit, bool inside) {
    const u32 peers = peers_of(digit, inside), start = own[digit];
    __syncwarp();
    if (inside) {
      if ((peers & lower) == 0) own[digit] = start + __popc(peers);
      moved[start + __popc(peers & lower)] = item;
    }
    __syncwarp();
  });
}

}  // namespace dagrun
