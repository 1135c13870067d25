// Caching memory of one device: fresh pages of a CPU cost about three times as much as warm ones, and taking or giving
// back a GPU's memory stops it.
#pragma once
#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "spinlock.h"

namespace dagrun {

struct MemoryStats {
  int64_t live_bytes;    // handed out, rounded up to size classes
  int64_t peak_bytes;    // the largest live_bytes so far
  int64_t cached_bytes;  // free, kept for reuse
};

// Memory that is not the CPU's: where an allocator's slabs come from, and how bytes in it are moved.
class MemorySource {
 public:
  virtual ~MemorySource() = default;
  virtual char* allocate(int64_t nbytes) = 0;  // nullptr: refused
  virtual void release(char* memory) = 0;
  virtual void overwrite(char* memory, int64_t nbytes) = 0;                // fills it with 0xA5
  virtual bool copy(char* target, const char* source, int64_t nbytes) = 0;  // both in this memory; done when it returns
};

class Allocator {
 public:
  ~Allocator();
  // Memory of at least nbytes, aligned to 64 bytes; nullptr where the limit or the machine refuses.
  char* allocate(int64_t nbytes);
  void release(char* memory, int64_t nbytes);
  void trim();  // gives all cached memory above one slab back to the system
  MemoryStats stats();
  void reset_peak();

  int64_t limit_bytes = 0;          // refuse to hand out more than this, and keep no more with it; 0: no limit
  int64_t cache_bytes = 1LL << 30;  // keep at most this much freed memory
  bool overwrite_freed = false;     // fill memory with 0xA5 at release: shows every use after free
  MemorySource* source = nullptr;   // not owned; nullptr: the CPU's memory

 private:
  static constexpr int kClasses = 416;  // the last one holds 2^60 bytes
  static int class_of(int64_t nbytes);
  static int64_t class_size(int index);
  char* carve(int index);
  char* take(int64_t nbytes);
  void give(char* memory);

  SpinLock lock_;
  std::mutex giving_;  // held while memory is given back
  std::vector<char*> free_[kClasses];
  std::vector<char*> slabs_;
  char* slab_next_ = nullptr;
  char* slab_end_ = nullptr;
  int64_t live_ = 0, peak_ = 0, cached_ = 0;
};

}  // namespace dagrun
