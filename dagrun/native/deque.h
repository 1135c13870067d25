// The work-stealing deque of Chase and Lev ("Dynamic Circular Work-Stealing Deque", SPAA 2005) in the C11 form of
// Le, Pop, Cohen and Zappa Nardelli (PPoPP 2013), with sequentially consistent accesses in place of fences, so that
// ThreadSanitizer sees every ordering. Entries are task slot numbers; 0 means "none".
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace dagrun {

class Deque {
 public:
  Deque() { array_.store(grow(nullptr, 0, 0), std::memory_order_relaxed); }

  // Owner only. The store is sequentially consistent: a following look at the sleepers cannot pass it.
  void push(uint32_t value) {
    const int64_t bottom = bottom_.load(std::memory_order_relaxed);
    const int64_t top = top_.load(std::memory_order_acquire);
    Ring* ring = array_.load(std::memory_order_relaxed);
    if (bottom - top > ring->mask) {
      ring = grow(ring, top, bottom);
      array_.store(ring, std::memory_order_release);
    }
    ring->at(bottom).store(value, std::memory_order_relaxed);
    bottom_.store(bottom + 1, std::memory_order_seq_cst);
  }

  // Owner only: the newest entry.
  uint32_t pop() {
    int64_t bottom = bottom_.load(std::memory_order_relaxed);
    if (bottom <= top_.load(std::memory_order_relaxed)) return 0;
    bottom -= 1;
    Ring* ring = array_.load(std::memory_order_relaxed);
    bottom_.store(bottom, std::memory_order_seq_cst);
    int64_t top = top_.load(std::memory_order_seq_cst);
    if (top > bottom) {
      bottom_.store(bottom + 1, std::memory_order_relaxed);
      return 0;
    }
    uint32_t value = ring->at(bottom).load(std::memory_order_relaxed);
    if (top == bottom) {
      if (!top_.compare_exchange_strong(top, top + 1, std::memory_order_seq_cst)) value = 0;
      bottom_.store(bottom + 1, std::memory_order_relaxed);
    }
    return value;
  }

  // Any thread: the oldest entry.
  uint32_t steal() {
    for (;;) {
      int64_t top = top_.load(std::memory_order_seq_cst);
      const int64_t bottom = bottom_.load(std::memory_order_seq_cst);
      if (top >= bottom) return 0;
      const uint32_t value = array_.load(std::memory_order_acquire)->at(top).load(std::memory_order_relaxed);
      if (top_.compare_exchange_strong(top, top + 1, std::memory_order_seq_cst)) return value;
    }
  }

  bool empty() const {
    return top_.load(std::memory_order_seq_cst) >= bottom_.load(std::memory_order_seq_cst);
  }

 private:
  struct Ring {
    int64_t mask;
    std::unique_ptr<std::atomic<uint32_t>[]> slots;
    std::atomic<uint32_t>& at(int64_t i) { return slots[i & mask]; }
  };

  Ring* grow(Ring* old, int64_t top, int64_t bottom) {
    auto ring = std::make_unique<Ring>();
    const int64_t size = old ? (old->mask + 1) * 2 : 1024;
    ring->mask = size - 1;
    ring->slots = std::make_unique<std::atomic<uint32_t>[]>(size);
    for (int64_t i = top; i < bottom; i++)
      ring->at(i).store(old->at(i).load(std::memory_order_relaxed), std::memory_order_relaxed);
    rings_.push_back(std::move(ring));  // old rings stay: a thief may still be reading one
    return rings_.back().get();
  }

  alignas(64) std::atomic<int64_t> top_{0};
  alignas(64) std::atomic<int64_t> bottom_{0};
  std::atomic<Ring*> array_{nullptr};
  std::vector<std::unique_ptr<Ring>> rings_;
};

}  // namespace dagrun
