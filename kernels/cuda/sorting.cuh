// Order: sort, argsort and searchsorted, with the keys and the results of dagrun/native/sorting.cpp: equal elements keep
// their order, -0 equals 0, NaN come last, or first where descending.
//
// A block of threads sorts a tile of a line in shared memory. Of a line of more than one tile, sorted runs are then merged
// in pairs, launch by launch: a thread for each element finds its rank in the other run. What moves between launches are
// the places of elements in their line; the last launch of a line writes what was asked for.
//
// Params: those of the CPU's body, then one word: the length of a tile, or of a run that is there already.
//
// Op: Bits (unsigned, as wide as an element); kind(); gives(), of what is written.
#pragma once
#include "dagrun.cuh"

namespace dagrun {

enum Kind { TRUTH, UNSIGNED, SIGNED, FLOATING };
enum Gives { VALUES, POSITIONS, PLACES };  // elements; int64; uint32, dense, for the next launch

// Keys have the order of unsigned integers.
template <int KIND, class Bits>
DAGRUN_INLINE Bits key_of(Bits bits) {
  constexpr Bits SIGN = Bits(Bits(1) << (8 * sizeof(Bits) - 1));
  if constexpr (KIND == TRUTH) {
    return bits != 0;
  } else if constexpr (KIND == UNSIGNED) {
    return bits;
  } else if constexpr (KIND == SIGNED) {
    return Bits(bits ^ SIGN);
  } else {
    constexpr int MANTISSA = sizeof(Bits) == 2 ? 10 : sizeof(Bits) == 4 ? 23 : 52;
    constexpr Bits INFINITE = Bits(Bits(SIGN - 1) >> MANTISSA << MANTISSA);
    const Bits magnitude = Bits(bits & Bits(~SIGN));
    if (magnitude > INFINITE) return Bits(~Bits(0));
    return bits & SIGN ? Bits(SIGN - magnitude) : Bits(SIGN + magnitude);
  }
}

template <class Op>
struct Sorting {
  using Bits = typename Op::Bits;
  const Call& call;
  i64 length, out_step, in_step, dims, lines, run;
  const i64* words;
  Bits flip;

  DAGRUN_METHOD explicit Sorting(const Call& call_) : call(call_) {
    length = call.params[0], out_step = call.params[1], in_step = call.params[2], dims = call.params[4];
    flip = call.params[3] ? Bits(~Bits(0)) : Bits(0);
    words = call.params + 5;
    run = words[3 * dims];
    lines = length == 0 ? 0 : positions(words, dims, 2);
  }
  // The offsets of a line: in the output, in the input.
  DAGRUN_METHOD void move(i64 line, i64 (&at)[2]) const {
    at[0] = at[1] = 0;
    position<2>(words, dims, line, at);
  }
  DAGRUN_METHOD Bits key(const i64 (&at)[2], i64 place) const {
    return Bits(key_of<Op::kind()>(load<Bits>(call.data[1] + at[1] + place * in_step)) ^ flip);
  }
  // The place that the launch before gave to `number`; where that was refused, garbage, but within the line.
  DAGRUN_METHOD i64 place(const char* from, i64 number) const {
    const i64 place = load<u32>(from + number * i64(sizeof(u32)));
    return place < length ? place : 0;
  }
  DAGRUN_METHOD void give(i64 line, const i64 (&at)[2], i64 rank, i64 place) const {
    char* there = call.data[0] + at[0] + rank * out_step;
    if constexpr (Op::gives() == PLACES) {
      store(call.data[0] + (line * length + rank) * i64(sizeof(u32)), u32(place));
    } else if constexpr (Op::gives() == POSITIONS) {
      store(there, place);
    } else {
      store(there, load<Bits>(call.data[1] + at[1] + place * in_step));
    }
  }
};

// Data: output, input. Bitonic: the places, of which no two are equal, make the order of equal keys.
template <class Op>
DAGRUN_INLINE void sort_tiles(const Call& call) {
  using Bits = typename Op::Bits;
  const Sorting<Op> s(call);
  int room = 2;
  while (room < s.run && room < s.length) room *= 2;
  Bits* keys = reinterpret_cast<Bits*>(DAGRUN_SHARED);
  u16* places = reinterpret_cast<u16*>(DAGRUN_SHARED + room * sizeof(Bits));
  const i64 tiles = (s.length + s.run - 1) / s.run;
  for (i64 job = blockIdx.x; job < s.lines * tiles; job += gridDim.x) {
    i64 line, tile, at[2];
    divide(job, tiles, line, tile);
    s.move(line, at);
    const i64 start = tile * s.run, rest = s.length - start;
    const int count = int(rest < s.run ? rest : s.run);
    for (int i = threadIdx.x; i < room; i += blockDim.x) {
      keys[i] = i < count ? s.key(at, start + i) : Bits(~Bits(0));  // what fills up comes last, by its place
      places[i] = u16(i);
    }
    __syncthreads();
    for (int size = 2; size <= room; size *= 2) {
      for (int step = size / 2; step > 0; step /= 2) {
        for (int i = threadIdx.x; i < room / 2; i += blockDim.x) {
          const int a = 2 * i - (i & (step - 1)), b = a + step;
          const bool later = keys[a] > keys[b] || (keys[a] == keys[b] && places[a] > places[b]);
          if (later == ((a & size) == 0)) {
            const Bits key = keys[a];
            const u16 place = places[a];
            keys[a] = keys[b], places[a] = places[b];
            keys[b] = key, places[b] = place;
          }
        }
        __syncthreads();
      }
    }
    // No barrier before the next tile: what a thread reads here, none but itself writes there.
    for (int i = threadIdx.x; i < count; i += blockDim.x) s.give(line, at, start + i, start + places[i]);
  }
}

// Data: output, input, the places that the launch before gave.
template <class Op>
DAGRUN_INLINE void merge_runs(const Call& call) {
  const Sorting<Op> s(call);
  const i64 total = s.lines * s.length;
  for (i64 i = first_thread(); i < total; i += all_threads()) {
    i64 line, number, at[2];
    divide(i, s.length, line, number);
    s.move(line, at);
    const char* from = call.data[2] + line * s.length * i64(sizeof(u32));
    i64 pair, within;
    divide(number, 2 * s.run, pair, within);
    const i64 start = number - within;
    const i64 middle = start + s.run < s.length ? start + s.run : s.length;
    const i64 end = middle + s.run < s.length ? middle + s.run : s.length;
    const bool older = number < middle;
    const i64 place = s.place(from, number);
    const auto key = s.key(at, place);
    i64 low = older ? middle : start, high = older ? end : middle;
    const i64 first = low;
    while (low < high) {  // how many of the other run come before
      const i64 half = low + (high - low) / 2;
      const auto other = s.key(at, s.place(from, half));
      if (other < key || (!older && other == key)) {
        low = half + 1;
      } else {
        high = half;
      }
    }
    s.give(line, at, (older ? number : number - middle + start) + low - first, place);
  }
}

// Data: output, a sorted line, elements; params of the CPU's body.
template <class Op>
DAGRUN_INLINE void search(const Call& call) {
  using Bits = typename Op::Bits;
  const i64 count = call.params[0], length = call.params[1], step = call.params[2];
  const bool after = call.params[3] != 0;
  for (i64 i = first_thread(); i < count; i += all_threads()) {
    const Bits key = key_of<Op::kind()>(load<Bits>(call.data[2] + i * i64(sizeof(Bits))));
    i64 low = 0, high = length;
    while (low < high) {
      const i64 half = low + (high - low) / 2;
      const Bits other = key_of<Op::kind()>(load<Bits>(call.data[1] + half * step));
      if (other < key || (after && other == key)) {
        low = half + 1;
      } else {
        high = half;
      }
    }
    store(call.data[0] + i * i64(sizeof(i64)), low);
  }
}

}  // namespace dagrun
