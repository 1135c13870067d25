// The ring of records that the three bindings append to. Only the way in from Python differs between them.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ring {

constexpr uint16_t add = 1;
constexpr uint16_t push = 2;

struct Record {
    uint32_t output, left, right;  // buffers; 0 = none
    uint16_t name;                 // operation
    uint16_t flags;
};
static_assert(sizeof(Record) == 16);

constexpr uint64_t capacity = 1 << 16;

// The GIL guards all of these.
inline Record records[capacity];
inline uint64_t recorded = 0;      // sequence number of the last record
inline uint32_t last_buffer = 0;   // buffers are numbered from 1
inline int64_t live_handles = 0;

inline uint64_t append(uint32_t output, uint32_t left, uint32_t right, uint16_t name) {
    records[recorded & (capacity - 1)] = Record{output, left, right, name, 0};
    return ++recorded;
}

}  // namespace ring
