#include "sorting.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

namespace dagrun {

namespace {

// Guarantees: equal elements keep their order; -0 equals 0; NaN come last, or first where descending. Elements are told
// apart by an unsigned key alone, so their order is that of integers and never that of a comparison with NaN.

template <int kSize>
struct Unsigned;
template <>
struct Unsigned<1> { using type = uint8_t; };
template <>
struct Unsigned<2> { using type = uint16_t; };
template <>
struct Unsigned<4> { using type = uint32_t; };
template <>
struct Unsigned<8> { using type = uint64_t; };

template <char kKind, typename Key>
Key key_of(Key bits) {
  constexpr Key kSign = static_cast<Key>(Key{1} << (8 * sizeof(Key) - 1));
  if constexpr (kKind == 'b') {
    return bits != 0;
  } else if constexpr (kKind == 'u') {
    return bits;
  } else if constexpr (kKind == 'i') {
    return bits ^ kSign;
  } else {
    constexpr int kMantissa = sizeof(Key) == 2 ? 10 : sizeof(Key) == 4 ? 23 : 52;
    constexpr Key kInfinity = static_cast<Key>((kSign - 1) >> kMantissa << kMantissa);
    const Key magnitude = bits & static_cast<Key>(~kSign);
    if (magnitude > kInfinity) return static_cast<Key>(~Key{0});
    const Key sign = bits >> (8 * sizeof(Key) - 1);  // no branch: signs cannot be foretold
    return static_cast<Key>(kSign + ((magnitude ^ static_cast<Key>(-sign)) + sign));
  }
}

// The element that has this key; any of them where several have it.
template <char kKind, typename Key>
Key element_of(Key key) {
  constexpr Key kSign = static_cast<Key>(Key{1} << (8 * sizeof(Key) - 1));
  if constexpr (kKind == 'i') return key ^ kSign;
  if constexpr (kKind == 'f') {
    const Key negative = key < kSign;
    const Key magnitude = static_cast<Key>(((key - kSign) ^ static_cast<Key>(-negative)) + negative);
    return static_cast<Key>(magnitude | (negative ? kSign : 0));
  }
  return key;
}

template <typename Key>
struct Record {
  Key key;
  uint32_t position;
};

template <typename Key>
Key sort_key(Key key) { return key; }
template <typename Key>
Key sort_key(const Record<Key>& record) { return record.key; }

// Below the first, a merge sort is faster than counting digits; from the second on, fewer and longer digits are.
constexpr size_t kCountingLength = 256, kLongDigitsLength = 8192;

// Sorts `length` items digit by digit from the lowest, each pass stable (radix sort); returns which of the two has them.
template <int kBits, typename Key, typename Item>
Item* sort_by_digits(Item* items, Item* scratch, size_t length) {
  constexpr int kDigits = (8 * static_cast<int>(sizeof(Key)) + kBits - 1) / kBits;
  constexpr size_t kValues = size_t{1} << kBits;
  std::vector<uint32_t> starts(kDigits * kValues);
  auto place = [](const Item& item, int digit) { return sort_key(item) >> (kBits * digit) & (kValues - 1); };
  for (size_t i = 0; i < length; i++) {
    for (int digit = 0; digit < kDigits; digit++) starts[digit * kValues + place(items[i], digit)]++;
  }
  for (int digit = 0; digit < kDigits; digit++) {
    uint32_t* start = &starts[digit * kValues];
    if (start[place(items[0], digit)] == length) continue;  // one digit for all
    uint32_t sum = 0;
    for (size_t value = 0; value < kValues; value++) sum += std::exchange(start[value], sum);
    for (size_t i = 0; i < length; i++) scratch[start[place(items[i], digit)]++] = items[i];
    std::swap(items, scratch);
  }
  return items;
}

template <typename Key, typename Item>
Item* sort_items(Item* items, Item* scratch, size_t length) {
  if (length < kCountingLength) {
    std::stable_sort(items, items + length, [](auto& a, auto& b) { return sort_key(a) < sort_key(b); });
    return items;
  }
  if (sizeof(Key) < 4 || length < kLongDigitsLength) return sort_by_digits<8, Key>(items, scratch, length);
  return sort_by_digits<11, Key>(items, scratch, length);
}

template <char kKind, int kSize, bool kPositions>
int32_t sort_lines(char** data, const int64_t* params, const uint64_t*, int64_t*) {
  using Key = typename Unsigned<kSize>::type;
  using Item = std::conditional_t<kPositions, Record<Key>, Key>;
  const int64_t length = params[0], out_stride = params[1], in_stride = params[2], others = params[4];
  const Key flip = params[3] & 1 ? static_cast<Key>(~Key{0}) : Key{0};
  const bool scratch_given = params[3] & 2, in_place = !kPositions && out_stride == kSize;
  const int64_t* dims = params + 5;
  int64_t lines = 1;
  for (int64_t d = 0; d < others; d++) lines *= dims[3 * d];
  if (!lines || !length) return 0;
  // -0 and 0 have one key, and so have all NaN: what they are is kept in order, and given back in order.
  constexpr bool kAlike = kKind == 'f' && !kPositions;
  const Key zero = key_of<kKind>(Key{0}), nan = static_cast<Key>(~Key{0});
  std::vector<Key> zeros, nans;
  try {
    // Fresh memory is slow to touch: where it can be, the result is one of the two places that items go to and fro.
    const std::unique_ptr<Item[]> first(in_place ? nullptr : new Item[static_cast<size_t>(length)]);
    const std::unique_ptr<Item[]> second(scratch_given ? nullptr : new Item[static_cast<size_t>(length)]);
    Item* const scratch = scratch_given ? reinterpret_cast<Item*>(data[2]) : second.get();
    for (int64_t line = 0; line < lines; line++) {
      char* out = data[0];
      const char* in = data[1];
      for (int64_t d = 0, rest = line; d < others; d++) {
        const int64_t place = rest % dims[3 * d];
        rest /= dims[3 * d];
        out += place * dims[3 * d + 1];
        in += place * dims[3 * d + 2];
      }
      Item* items = in_place ? reinterpret_cast<Item*>(out) : first.get();
      bool any_alike = false;
      for (int64_t i = 0; i < length; i++) {
        Key bits;
        std::memcpy(&bits, in + i * in_stride, sizeof bits);
        const Key key = key_of<kKind>(bits);
        if constexpr (kAlike) any_alike |= (key == zero) | (key == nan);
        if constexpr (kPositions) items[i] = {static_cast<Key>(key ^ flip), static_cast<uint32_t>(i)};
        else items[i] = static_cast<Key>(key ^ flip);
      }
      zeros.clear();
      nans.clear();
      for (int64_t i = 0; any_alike && i < length; i++) {
        Key bits;
        std::memcpy(&bits, in + i * in_stride, sizeof bits);
        const Key key = key_of<kKind>(bits);
        if (key == zero) zeros.push_back(bits);
        if (key == nan) nans.push_back(bits);
      }
      items = sort_items<Key>(items, scratch, static_cast<size_t>(length));
      const Key *next_zero = zeros.data(), *next_nan = nans.data();
      for (int64_t i = 0; i < length; i++) {
        if constexpr (kPositions) {
          const int64_t position = items[i].position;
          std::memcpy(out + i * out_stride, &position, sizeof position);
        } else {
          const Key key = static_cast<Key>(items[i] ^ flip);
          Key bits = element_of<kKind>(key);
          if (any_alike && key == zero) bits = *next_zero++;
          if (any_alike && key == nan) bits = *next_nan++;
          std::memcpy(out + i * out_stride, &bits, sizeof bits);
        }
      }
    }
  } catch (const std::bad_alloc&) {
    return 1;
  }
  return 0;
}

// Two sorted runs that are merged from a place of the result on.
template <char kKind, typename Key>
struct Merge {
  const char *left, *right;
  int64_t left_length, right_length, stride;
  Key flip;
  char* out;
  int64_t out_stride, count;

  Key at(const char* run, int64_t i) const {
    Key bits;
    std::memcpy(&bits, run + i * stride, sizeof bits);
    return bits;
  }
  Key key(Key bits) const { return static_cast<Key>(key_of<kKind>(bits) ^ flip); }
  // Goes to the result's element `place`: so many of the left run come before it; of equal elements, the left ones.
  void seek(int64_t place) {
    int64_t low = std::max<int64_t>(0, place - right_length), high = std::min(place, left_length);
    while (low < high) {
      const int64_t taken = low + (high - low) / 2;
      if (key(at(left, taken)) <= key(at(right, place - taken - 1))) {
        low = taken + 1;
      } else {
        high = taken;
      }
    }
    left += low * stride, left_length -= low;
    right += (place - low) * stride, right_length -= place - low;
    out += place * out_stride;
  }
  // Elements that can be taken without a run coming to its end.
  int64_t sure() const { return std::min({count, left_length, right_length}); }
  void step() {
    const Key a = at(left, 0), b = at(right, 0);
    const int64_t from_right = key(b) < key(a);  // no branch: nobody could foretell it
    const Key bits = static_cast<Key>(a ^ ((a ^ b) & static_cast<Key>(-from_right)));
    std::memcpy(out, &bits, sizeof bits);
    left += stride & (from_right - 1);
    right += stride & -from_right;
    out += out_stride;
  }
  // After `steps` steps from where the runs began at these places.
  void account(const char* left_was, const char* right_was, int64_t steps) {
    left_length -= (left - left_was) / stride;
    right_length -= (right - right_was) / stride;
    count -= steps;
  }
  void finish() {
    while (const int64_t steps = sure()) run(steps);
    const char*& rest = left_length ? left : right;
    for (; count; count--, rest += stride, out += out_stride) std::memcpy(out, rest, sizeof(Key));
  }
  void run(int64_t steps) {
    const char *left_was = left, *right_was = right;
    for (int64_t i = 0; i < steps; i++) step();
    account(left_was, right_was, steps);
  }
};

template <char kKind, int kSize>
int32_t merge_runs(char** data, const int64_t* params, const uint64_t*, int64_t*) {
  using Key = typename Unsigned<kSize>::type;
  const int64_t left = params[0], right = params[1], first = params[2], last = params[3];
  const Key flip = params[6] ? static_cast<Key>(~Key{0}) : Key{0};
  // Two halves in turn: each waits for its loads while the other goes on.
  const int64_t middle = first + (last - first) / 2;
  Merge<kKind, Key> low{data[1], data[1] + left * params[5], left, right, params[5], flip,
                        data[0] - first * params[4], params[4], middle - first};
  Merge<kKind, Key> high = low;
  high.count = last - middle;
  low.seek(first);
  high.seek(middle);
  while (const int64_t steps = std::min(low.sure(), high.sure())) {
    const char *starts[] = {low.left, low.right, high.left, high.right};
    for (int64_t i = 0; i < steps; i++) low.step(), high.step();
    low.account(starts[0], starts[1], steps);
    high.account(starts[2], starts[3], steps);
  }
  low.finish();
  high.finish();
  return 0;
}

template <char kKind, int kSize>
int32_t search_line(char** data, const int64_t* params, const uint64_t*, int64_t*) {
  using Key = typename Unsigned<kSize>::type;
  const int64_t count = params[0], length = params[1], stride = params[2];
  const bool after = params[3];
  auto key_at = [](const char* place) {
    Key bits;
    std::memcpy(&bits, place, sizeof bits);
    return key_of<kKind>(bits);
  };
  for (int64_t i = 0; i < count; i++) {
    const Key key = key_at(data[2] + i * kSize);
    int64_t low = 0, high = length;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      const Key other = key_at(data[1] + middle * stride);
      if (other < key || (after && other == key)) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    std::memcpy(data[0] + i * 8, &low, sizeof low);
  }
  return 0;
}

// The instance of a body for a kind and size, from `Bodies<kind, size>::body`.
template <template <char, int> class Bodies>
Function choose(char kind, int itemsize) {
  switch (kind << 8 | itemsize) {
    case 'b' << 8 | 1: return Bodies<'b', 1>::body;
    case 'i' << 8 | 1: return Bodies<'i', 1>::body;
    case 'i' << 8 | 2: return Bodies<'i', 2>::body;
    case 'i' << 8 | 4: return Bodies<'i', 4>::body;
    case 'i' << 8 | 8: return Bodies<'i', 8>::body;
    case 'u' << 8 | 1: return Bodies<'u', 1>::body;
    case 'u' << 8 | 2: return Bodies<'u', 2>::body;
    case 'u' << 8 | 4: return Bodies<'u', 4>::body;
    case 'u' << 8 | 8: return Bodies<'u', 8>::body;
    case 'f' << 8 | 2: return Bodies<'f', 2>::body;
    case 'f' << 8 | 4: return Bodies<'f', 4>::body;
    case 'f' << 8 | 8: return Bodies<'f', 8>::body;
    default: return nullptr;
  }
}

template <char kKind, int kSize>
struct Values {
  static constexpr Function body = sort_lines<kKind, kSize, false>;
};
template <char kKind, int kSize>
struct Positions {
  static constexpr Function body = sort_lines<kKind, kSize, true>;
};
template <char kKind, int kSize>
struct Merges {
  static constexpr Function body = merge_runs<kKind, kSize>;
};
template <char kKind, int kSize>
struct Places {
  static constexpr Function body = search_line<kKind, kSize>;
};

}  // namespace

Function sorter(char kind, int itemsize, bool positions) {
  return positions ? choose<Positions>(kind, itemsize) : choose<Values>(kind, itemsize);
}

Function merger(char kind, int itemsize) { return choose<Merges>(kind, itemsize); }

Function searcher(char kind, int itemsize) { return choose<Places>(kind, itemsize); }

}  // namespace dagrun
