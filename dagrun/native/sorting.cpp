#include "sorting.h"

#include <algorithm>
#include <cstring>
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
    return static_cast<Key>(bits & kSign ? kSign - magnitude : kSign + magnitude);
  }
}

// The element that has this key; any of them where several have it.
template <char kKind, typename Key>
Key element_of(Key key) {
  constexpr Key kSign = static_cast<Key>(Key{1} << (8 * sizeof(Key) - 1));
  if constexpr (kKind == 'i') return key ^ kSign;
  if constexpr (kKind == 'f') return static_cast<Key>(key >= kSign ? key - kSign : kSign | (kSign - key));
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

// Below, a merge sort is faster than counting digits.
constexpr size_t kCountingLength = 256;

// Sorts `items`, with `scratch` as long; digit by digit from the lowest, each pass stable (radix sort).
template <typename Key, typename Item>
void sort_items(std::vector<Item>& items, std::vector<Item>& scratch) {
  if (items.size() < kCountingLength) {
    std::stable_sort(items.begin(), items.end(), [](auto& a, auto& b) { return sort_key(a) < sort_key(b); });
    return;
  }
  uint32_t starts[sizeof(Key)][256] = {};
  for (const Item& item : items) {
    for (size_t digit = 0; digit < sizeof(Key); digit++) starts[digit][sort_key(item) >> 8 * digit & 255]++;
  }
  for (size_t digit = 0; digit < sizeof(Key); digit++) {
    uint32_t* start = starts[digit];
    if (start[sort_key(items[0]) >> 8 * digit & 255] == items.size()) continue;  // one digit for all
    uint32_t sum = 0;
    for (int value = 0; value < 256; value++) sum += std::exchange(start[value], sum);
    for (const Item& item : items) scratch[start[sort_key(item) >> 8 * digit & 255]++] = item;
    items.swap(scratch);
  }
}

template <char kKind, int kSize, bool kPositions>
int32_t sort_lines(char** data, const int64_t* params, const uint64_t*, int64_t*) {
  using Key = typename Unsigned<kSize>::type;
  using Item = std::conditional_t<kPositions, Record<Key>, Key>;
  const int64_t length = params[0], out_stride = params[1], in_stride = params[2], others = params[4];
  const Key flip = params[3] ? static_cast<Key>(~Key{0}) : Key{0};
  const int64_t* dims = params + 5;
  int64_t lines = 1;
  for (int64_t d = 0; d < others; d++) lines *= dims[3 * d];
  if (!lines || !length) return 0;
  // -0 and 0 have one key, and so have all NaN: what they are is kept in order, and given back in order.
  constexpr bool kAlike = kKind == 'f' && !kPositions;
  const Key zero = key_of<kKind>(Key{0}), nan = static_cast<Key>(~Key{0});
  std::vector<Item> items, scratch;
  std::vector<Key> zeros, nans;
  try {
    items.resize(static_cast<size_t>(length));
    scratch.resize(static_cast<size_t>(length));
    for (int64_t line = 0; line < lines; line++) {
      char* out = data[0];
      const char* in = data[1];
      for (int64_t d = 0, rest = line; d < others; d++) {
        const int64_t place = rest % dims[3 * d];
        rest /= dims[3 * d];
        out += place * dims[3 * d + 1];
        in += place * dims[3 * d + 2];
      }
      zeros.clear();
      nans.clear();
      for (int64_t i = 0; i < length; i++) {
        Key bits;
        std::memcpy(&bits, in + i * in_stride, sizeof bits);
        const Key key = key_of<kKind>(bits);
        if constexpr (kAlike) {
          if (key == zero) zeros.push_back(bits);
          if (key == nan) nans.push_back(bits);
        }
        if constexpr (kPositions) items[i] = {static_cast<Key>(key ^ flip), static_cast<uint32_t>(i)};
        else items[i] = static_cast<Key>(key ^ flip);
      }
      sort_items<Key>(items, scratch);
      const Key *next_zero = zeros.data(), *next_nan = nans.data();
      for (int64_t i = 0; i < length; i++) {
        if constexpr (kPositions) {
          const int64_t position = items[i].position;
          std::memcpy(out + i * out_stride, &position, sizeof position);
        } else {
          const Key key = static_cast<Key>(items[i] ^ flip);
          Key bits = element_of<kKind>(key);
          if (kAlike && key == zero) bits = *next_zero++;
          if (kAlike && key == nan) bits = *next_nan++;
          std::memcpy(out + i * out_stride, &bits, sizeof bits);
        }
      }
    }
  } catch (const std::bad_alloc&) {
    return 1;
  }
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
struct Places {
  static constexpr Function body = search_line<kKind, kSize>;
};

}  // namespace

Function sorter(char kind, int itemsize, bool positions) {
  return positions ? choose<Positions>(kind, itemsize) : choose<Values>(kind, itemsize);
}

Function searcher(char kind, int itemsize) { return choose<Places>(kind, itemsize); }

}  // namespace dagrun
