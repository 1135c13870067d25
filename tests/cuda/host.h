// Lets g++ compile the CUDA sources as C++ and run them on the CPU, for tests; the flags are in harness.py.
//
// Each kernel NAME also gives `extern "C" void NAME_host(const Call*, blocks, threads, shared_bytes)`. The blocks run
// one after the other, in a seeded order. The threads of a block are fibers: one runs until it ends or waits for others,
// at __syncthreads(), a shuffle or a ballot. Which one goes on next is drawn by the seed; one of them, often the first, is
// starved: it goes on only where nobody else can. Shared memory is poisoned before each block and guarded behind its end.
// What CUDA leaves undefined ends in a message and abort(): a barrier that some threads of a block never reach, a shuffle
// with threads missing, shared memory written beyond what was asked for.
// `dagrun_host_seed` (a global of the library) is the seed; launches from several threads do not disturb each other.
#pragma once
#define DAGRUN_HOST 1

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __restrict__
#define DAGRUN_INLINE [[maybe_unused]] static inline
#define DAGRUN_METHOD inline
#define DAGRUN_KERNEL(name, ...)                                                                              \
  static void name(const dagrun::Call& call);                                                                 \
  extern "C" __attribute__((visibility("default")))                                                           \
  void name##_host(const dagrun::Call* call, unsigned blocks, unsigned threads, unsigned shared) { \
    constexpr unsigned bounds[] = {__VA_ARGS__};                                                              \
    if (threads > bounds[0]) dagrun_host::die("more threads than the kernel says");                           \
    dagrun_host::launch([call] { name(*call); }, blocks, threads, shared);                                    \
  }                                                                                                           \
  static void name([[maybe_unused]] const dagrun::Call& call)

extern "C" {
__attribute__((weak, visibility("default"))) unsigned dagrun_host_seed = 1;
}

#pragma GCC push_options
#pragma GCC optimize("O2")  // the kernels themselves are not, which compiles them faster
namespace dagrun_host {

struct Dimension {
  unsigned x = 0, y = 0, z = 0;
};
inline thread_local Dimension thread_index, block_index, block_size, grid_size;

constexpr size_t STACK_BYTES = 1 << 18, GUARD_BYTES = 64;
constexpr unsigned char POISON = 0xcd;
enum class State { fresh, ready, at_barrier, at_shuffle, done };

// A thread of the block.
struct Fiber {
  State state = State::fresh;
  int worker = -1;  // on whose stack it runs
  int line = 0;     // of the barrier or the shuffle at which it waits
  unsigned mask = 0;
  uint64_t values[2];  // what it brings to a shuffle: one is written while the last one may still be read
  float fragments[2][12];  // likewise to a product of fragments: its elements of a, then of b
  unsigned shuffles = 0;
  bool votes[2];  // what it brings to a barrier, likewise
  unsigned barriers = 0;
};

// A stack, where threads run one after the other. Switches are by _longjmp, which makes no call of the system.
struct Worker {
  char* stack = nullptr;  // null: not begun
  jmp_buf place;
};

[[noreturn]] inline void die(const char* what) {
  std::fprintf(stderr, "dagrun host: %s (block %u, thread %u)\n", what, block_index.x, thread_index.x);
  std::abort();
}

// One launch, on one thread of the host.
struct Launch {
  void (*body)(const void*) = nullptr;
  const void* argument = nullptr;
  std::vector<Fiber> fibers;
  std::vector<Worker*> workers;
  std::vector<int> idle;  // workers
  std::vector<unsigned> runnable;
  std::vector<unsigned char> shared;
  jmp_buf scheduler;
  unsigned current = 0, done = 0, starved = 0;
  uint64_t random = 0;

  ~Launch() {
    for (Worker* worker : workers) {
      std::free(worker->stack);
      delete worker;
    }
  }
  uint64_t draw(uint64_t below) {  // splitmix64
    uint64_t z = (random += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (z ^ (z >> 31)) % below;
  }
  bool only_starved() const { return runnable.size() == 1 && runnable[0] == starved; }
  unsigned take() {  // one of the runnable threads
    size_t place = draw(runnable.size());
    if (runnable[place] == starved) place = (place + 1) % runnable.size();
    const unsigned chosen = runnable[place];
    runnable[place] = runnable.back();
    runnable.pop_back();
    return chosen;
  }
};
inline thread_local Launch* now = nullptr;

// A worker's own code. A thread that ends without waiting leaves its worker to the next fresh one at once.
inline void run_threads() {
  Launch& launch = *now;  // of this thread of the host, for good
  for (;;) {
    const unsigned self = launch.current;
    thread_index.x = self;
    launch.body(launch.argument);
    Fiber& fiber = launch.fibers[self];
    fiber.state = State::done;
    launch.done++;
    if (!launch.runnable.empty()) {
      const unsigned next = launch.take();
      if (launch.fibers[next].state == State::fresh) {
        launch.fibers[next].worker = fiber.worker;
        launch.current = next;
        continue;
      }
      launch.runnable.push_back(next);
    }
    launch.idle.push_back(fiber.worker);
    if (_setjmp(launch.workers[fiber.worker]->place) == 0) _longjmp(launch.scheduler, 1);
  }
}

inline void resume(Launch& launch, unsigned index) {
  Fiber& fiber = launch.fibers[index];
  launch.current = index;
  thread_index.x = index;
  if (fiber.state == State::fresh) {
    if (launch.idle.empty()) {
      launch.idle.push_back(int(launch.workers.size()));
      launch.workers.push_back(new Worker);
    }
    fiber.worker = launch.idle.back();
    launch.idle.pop_back();
  }
  fiber.state = State::ready;
  Worker& worker = *launch.workers[fiber.worker];
  if (_setjmp(launch.scheduler) != 0) return;
  if (worker.stack != nullptr) _longjmp(worker.place, 1);
  static thread_local ucontext_t begin;
  worker.stack = static_cast<char*>(std::malloc(STACK_BYTES));
  getcontext(&begin);
  begin.uc_stack.ss_sp = worker.stack;
  begin.uc_stack.ss_size = STACK_BYTES;
  begin.uc_link = nullptr;
  makecontext(&begin, run_threads, 0);
  setcontext(&begin);
}

inline void wait(State state, int line, unsigned mask) {
  Launch& launch = *now;
  Fiber& fiber = launch.fibers[launch.current];
  fiber.state = state;
  fiber.line = line;
  fiber.mask = mask;
  if (_setjmp(launch.workers[fiber.worker]->place) == 0) _longjmp(launch.scheduler, 1);
}

// Lets threads go on whose partners have all come; false when nobody can.
inline bool release(Launch& launch) {
  const unsigned count = unsigned(launch.fibers.size());
  bool some = false;
  for (unsigned first = 0; first < count; first += 32) {
    const unsigned after = first + 32 < count ? first + 32 : count;
    for (unsigned i = first; i < after; i++) {
      if (launch.fibers[i].state != State::at_shuffle) continue;
      const unsigned mask = launch.fibers[i].mask;
      bool all = true;
      for (unsigned k = 0; k < 32; k++) {
        if (!(mask >> k & 1)) continue;
        if (first + k >= after) {
          all = false;
          continue;
        }
        const Fiber& other = launch.fibers[first + k];
        all = all && other.state == State::at_shuffle && other.mask == mask && other.line == launch.fibers[i].line;
      }
      if (!all) continue;
      for (unsigned k = 0; k < 32; k++) {
        if (!(mask >> k & 1)) continue;
        launch.fibers[first + k].state = State::ready;
        launch.runnable.push_back(first + k);
      }
      some = true;
    }
  }
  if (some) return true;
  for (unsigned i = 0; i < count; i++) {
    if (launch.fibers[i].state != State::at_barrier || launch.fibers[i].line != launch.fibers[0].line) return false;
  }
  for (unsigned i = 0; i < count; i++) {
    launch.fibers[i].state = State::ready;
    launch.runnable.push_back(i);
  }
  return true;
}

inline void run_block(Launch& launch, unsigned threads, unsigned shared) {
  launch.fibers.assign(threads, Fiber{});
  launch.shared.assign(shared + GUARD_BYTES, POISON);
  launch.done = 0;
  launch.runnable.clear();
  for (unsigned i = 0; i < threads; i++) launch.runnable.push_back(i);
  launch.starved = launch.draw(2) == 0 ? 0 : unsigned(launch.draw(threads));
  while (launch.done < threads) {
    if (launch.runnable.empty() || launch.only_starved()) {
      if (!release(launch) && launch.runnable.empty()) die("threads of a block wait for others that never come");
    }
    resume(launch, launch.take());
  }
  for (size_t i = shared; i < shared + GUARD_BYTES; i++) {
    if (launch.shared[i] != POISON) die("shared memory was written beyond its end");
  }
}

template <class Body>
void launch(const Body& body, unsigned blocks, unsigned threads, unsigned shared) {
  if (blocks == 0 || threads == 0 || threads > 1024 || shared > (48u << 10)) die("a launch of impossible size");
  static thread_local Launch launch;
  if (now != nullptr) die("a kernel that launches a kernel");
  now = &launch;
  launch.body = [](const void* argument) { (*static_cast<const Body*>(argument))(); };
  launch.argument = &body;
  launch.random = dagrun_host_seed;
  block_size.x = threads;
  grid_size.x = blocks;
  // A full cycle through the blocks: an odd start and a step that has no divisor in common with their number.
  uint64_t step = 1 + launch.draw(blocks), place = launch.draw(blocks);
  auto divisor = [](uint64_t a, uint64_t b) {
    while (b != 0) {
      const uint64_t rest = a % b;
      a = b;
      b = rest;
    }
    return a;
  };
  while (divisor(step, blocks) != 1) step++;
  for (unsigned i = 0; i < blocks; i++, place = (place + step) % blocks) {
    block_index.x = unsigned(place);
    run_block(launch, threads, shared);
  }
  now = nullptr;
}

template <class T>
T shuffle(unsigned mask, T value, unsigned source, int line) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  Launch& launch = *now;
  const unsigned self = launch.current, turn = launch.fibers[self].shuffles++ % 2;
  std::memcpy(&launch.fibers[self].values[turn], &value, sizeof(T));
  wait(State::at_shuffle, line, mask);
  T result;
  std::memcpy(&result, &launch.fibers[(self & ~31u) + source].values[turn], sizeof(T));
  return result;
}

inline unsigned ballot(unsigned mask, bool value, int line) {
  Launch& launch = *now;
  const unsigned self = launch.current, turn = launch.fibers[self].shuffles++ % 2;
  launch.fibers[self].values[turn] = value ? 1 : 0;
  wait(State::at_shuffle, line, mask);
  unsigned result = 0;
  for (unsigned k = 0; k < 32; k++) {
    if (mask >> k & 1) result |= unsigned(launch.fibers[(self & ~31u) + k].values[turn]) << k;
  }
  return result;
}

inline float to_tf32(float value) {  // 10 bits of mantissa, ties away from zero
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7f800000) != 0x7f800000) bits = (bits + 0x1000) & ~0x1fffu;
  std::memcpy(&value, &bits, 4);
  return value;
}

// mma.m16n8k16 of float16 (`half`) or m16n8k8 of TF32: all threads of a warp bring 4 words of a and 2 of b. Neither has a
// defined order of sums: here they are exact but for the last rounding.
inline void multiply_fragments(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], bool half, int line) {
  Launch& launch = *now;
  const unsigned self = launch.current, turn = launch.fibers[self].shuffles++ % 2, width = half ? 2 : 1;
  float* own = launch.fibers[self].fragments[turn];
  for (unsigned word = 0; word < 6; word++) {
    const unsigned bits = word < 4 ? a[word] : b[word - 4];
    if (half) {
      _Float16 values[2];
      std::memcpy(values, &bits, 4);
      own[2 * word] = float(values[0]), own[2 * word + 1] = float(values[1]);
    } else {
      std::memcpy(&own[word], &bits, 4);
      own[word] = to_tf32(own[word]);
    }
  }
  wait(State::at_shuffle, line, ~0u);
  const Fiber* warp = &launch.fibers[self & ~31u];
  const unsigned lane = self % 32;
  for (unsigned i = 0; i < 4; i++) {
    const Fiber *of_row = warp + lane / 4 * 4, *of_column = warp + (lane % 4 * 2 + i % 2) * 4;
    double total = d[i];
    for (unsigned high = 0; high < 2; high++) {
      for (unsigned at = 0; at < 4; at++) {  // each has a word of the row and of the column
        const float* left = of_row[at].fragments[turn] + (2 * high + i / 2) * width;
        const float* right = of_column[at].fragments[turn] + (4 + high) * width;
        for (unsigned k = 0; k < width; k++) total += double(left[k]) * double(right[k]);
      }
    }
    d[i] = float(total);
  }
}

inline int barrier_or(bool vote, int line) {
  Launch& launch = *now;
  const unsigned turn = launch.fibers[launch.current].barriers++ % 2;
  launch.fibers[launch.current].votes[turn] = vote;
  wait(State::at_barrier, line, 0);
  for (const Fiber& fiber : launch.fibers) {
    if (fiber.votes[turn]) return 1;
  }
  return 0;
}

}  // namespace dagrun_host
#pragma GCC pop_options

#define threadIdx dagrun_host::thread_index
#define blockIdx dagrun_host::block_index
#define blockDim dagrun_host::block_size
#define gridDim dagrun_host::grid_size
#define __syncthreads() dagrun_host::wait(dagrun_host::State::at_barrier, __LINE__, 0)
#define __syncthreads_or(vote) dagrun_host::barrier_or(vote, __LINE__)
#define __shfl_sync(mask, value, source) dagrun_host::shuffle(mask, value, unsigned(source) & 31u, __LINE__)
#define __ballot_sync(mask, value) dagrun_host::ballot(mask, value, __LINE__)
#define __syncwarp() ((void)dagrun_host::ballot(0xffffffffu, false, __LINE__))
#define __fmaf_rn(a, b, c) __builtin_fmaf(a, b, c)
#define __fma_rn(a, b, c) __builtin_fma(a, b, c)
#define __popc(value) __builtin_popcount(value)
#define __threadfence_system() ((void)0)
#define DAGRUN_SHARED reinterpret_cast<char*>(dagrun_host::now->shared.data())

inline unsigned long long atomicCAS(unsigned long long* place, unsigned long long compare, unsigned long long value) {
  __atomic_compare_exchange_n(place, &compare, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  return compare;
}

inline unsigned atomicMin(unsigned* place, unsigned value) {  // a thread of a block is never interrupted
  const unsigned before = *place;
  if (value < before) *place = value;
  return before;
}

inline unsigned atomicAdd(unsigned* place, unsigned value) {
  return __atomic_fetch_add(place, value, __ATOMIC_SEQ_CST);
}
