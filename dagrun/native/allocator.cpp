#include "allocator.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace dagrun {

namespace {
constexpr int64_t kSlab = 1 << 20;     // small blocks are carved from slabs of this size
constexpr int64_t kLargest = 1 << 16;  // the largest block that is carved
constexpr int64_t kHuge = 1 << 21;     // from here on, aligned to and advised as huge pages

char* system_allocate(int64_t nbytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, nbytes >= kHuge ? kHuge : 4096, nbytes)) return nullptr;
#ifdef MADV_HUGEPAGE
  if (nbytes >= kHuge) madvise(memory, nbytes, MADV_HUGEPAGE);
#endif
  return static_cast<char*>(memory);
}
}  // namespace

// Size classes: multiples of 64 up to 512, then eight steps to each power of two (at most 12.5 % lost).
int Allocator::class_of(int64_t nbytes) {
  if (nbytes <= 512) return nbytes <= 64 ? 0 : static_cast<int>((nbytes - 1) / 64);
  const int log = 63 - __builtin_clzll(nbytes - 1);  // 2^log <= nbytes - 1 < 2^(log + 1)
  const int64_t step = 1LL << (log - 3);
  return 8 + (log - 9) * 8 + static_cast<int>((nbytes - 1 - (1LL << log)) / step);
}

int64_t Allocator::class_size(int index) {
  if (index < 8) return 64 * (index + 1);
  const int log = 9 + (index - 8) / 8;
  return (1LL << log) + ((index - 8) % 8 + 1) * (1LL << (log - 3));
}

Allocator::~Allocator() {
  trim();
  for (char* slab : slabs_) give(slab);
}

char* Allocator::take(int64_t nbytes) { return source ? source->allocate(nbytes) : system_allocate(nbytes); }

void Allocator::give(char* memory) {
  if (source) source->release(memory);
  else free(memory);
}

char* Allocator::carve(int index) {
  const int64_t size = class_size(index);
  if (slab_next_ == nullptr || slab_end_ - slab_next_ < size) {
    char* slab = take(kSlab);
    if (!slab) return nullptr;
    slabs_.push_back(slab);
    slab_next_ = slab;
    slab_end_ = slab + kSlab;
  }
  char* memory = slab_next_;
  slab_next_ += size;
  return memory;
}

char* Allocator::allocate(int64_t nbytes) {
  if (nbytes > (1LL << 60)) return nullptr;
  const int index = class_of(nbytes);
  const int64_t size = class_size(index);
  bool retried = false;
  for (;;) {
    bool full = false;  // what is kept for reuse has to go first
    {
      std::lock_guard<SpinLock> guard(lock_);
      if (limit_bytes == 0 || live_ + size <= limit_bytes) {
        char* memory = nullptr;
        if (!free_[index].empty()) {
          memory = free_[index].back();
          free_[index].pop_back();
          cached_ -= size;
        } else if (size <= kLargest) {
          memory = carve(index);
        }
        if (memory || size > kLargest) {
          live_ += size;
          full = limit_bytes && live_ + cached_ > limit_bytes;
        }
        if (memory) {
          peak_ = std::max(peak_, live_);
          return memory;
        }
      } else {
        return nullptr;
      }
    }
    if (size > kLargest) {
      if (full) trim();
      char* memory = take(size);
      std::lock_guard<SpinLock> guard(lock_);
      if (memory) {
        peak_ = std::max(peak_, live_);
        return memory;
      }
      live_ -= size;
    }
    if (retried) return nullptr;
    trim();
    retried = true;
  }
}

void Allocator::release(char* memory, int64_t nbytes) {
  if (!memory) return;
  const int index = class_of(nbytes);
  const int64_t size = class_size(index);
  if (overwrite_freed && source) source->overwrite(memory, size);
  else if (overwrite_freed) memset(memory, 0xA5, size);
  {
    std::lock_guard<SpinLock> guard(lock_);
    live_ -= size;
    const bool keeps = size <= kLargest || cached_ + size <= cache_bytes;
    cached_ += size;
    if (keeps) {
      free_[index].push_back(memory);
      return;
    }
  }
  give(memory);
  std::lock_guard<SpinLock> guard(lock_);
  cached_ -= size;
}

// What is given back counts as kept until it is gone, and whoever needs the room waits for it here.
void Allocator::trim() {
  std::lock_guard<std::mutex> one(giving_);
  std::vector<char*> blocks;
  int64_t nbytes = 0;
  {
    std::lock_guard<SpinLock> guard(lock_);
    for (int index = class_of(kLargest) + 1; index < kClasses; index++) {
      nbytes += static_cast<int64_t>(free_[index].size()) * class_size(index);
      blocks.insert(blocks.end(), free_[index].begin(), free_[index].end());
      free_[index].clear();
    }
  }
  for (char* block : blocks) give(block);
  std::lock_guard<SpinLock> guard(lock_);
  cached_ -= nbytes;
}

MemoryStats Allocator::stats() {
  std::lock_guard<SpinLock> guard(lock_);
  return {live_, peak_, cached_};
}

void Allocator::reset_peak() {
  std::lock_guard<SpinLock> guard(lock_);
  peak_ = live_;
}

}  // namespace dagrun
