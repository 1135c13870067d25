// What every scenario of the stress test needs: seeded randomness, checks that say how to repeat a failure, a watchdog
// for hangs, and an engine whose life ends with every thread, byte and failure accounted for.
#pragma once
#include <atomic>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "cuda.h"
#include "executor.h"
#include "streams.h"

// The emulated GPUs, which the program is linked with: tests/cuda/emulator.cpp.
extern "C" {
void emulator_hold(int on);
void emulator_reset(uint64_t seed, size_t capacity);
void emulator_inject(const char* what, long countdown, int result);
int emulator_misuses(char* out, int size);
long emulator_pinned_peak();
void* emulator_host_view(unsigned long long at);
}

using namespace dagrun;

struct Random {
  uint64_t state;
  uint64_t next() {  // splitmix64
    uint64_t z = state += 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
  bool chance(int percent) { return below(100) < percent; }
  template <typename T>
  T pick(std::initializer_list<T> values) {
    return values.begin()[below(static_cast<int64_t>(values.size()))];
  }
};

// Which round runs: for messages and for the watchdog.
struct Progress {
  const char* scenario = "";
  uint64_t seed = 0;
  std::atomic<uint64_t> beats{0};
  std::atomic<Executor*> executor{nullptr};
};
inline Progress progress;

[[noreturn]] inline void quit(int code) {
  std::fflush(nullptr);
  std::_Exit(code);  // other threads still run: no destructors
}

[[noreturn]] __attribute__((format(printf, 1, 2))) inline void fail(const char* format, ...) {
  std::fprintf(stderr, "\nFAILED %s: ", progress.scenario);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "\nrepeat with: stress %s %llu 1\n", progress.scenario, (unsigned long long)progress.seed);
  quit(1);
}

#define CHECK(condition, ...)        \
  do {                               \
    if (!(condition)) fail(__VA_ARGS__); \
  } while (0)

inline void expect_equal(int64_t actual, int64_t expected, const char* what) {
  CHECK(actual == expected, "%s is %lld, expected %lld", what, (long long)actual, (long long)expected);
}

// Ends the program with what the engine waits for when nothing moves any more.
class Watchdog {
 public:
  explicit Watchdog(int seconds) : thread_([this, seconds] { main(seconds); }) {}
  ~Watchdog() {
    {
      std::lock_guard<std::mutex> guard(mutex_);
      end_ = true;
    }
    cv_.notify_all();
    thread_.join();
  }

 private:
  void main(int seconds) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      const uint64_t seen = progress.beats;
      if (cv_.wait_for(lock, std::chrono::seconds(seconds), [this] { return end_; })) return;
      if (progress.beats != seen) continue;
      std::fprintf(stderr, "\nHANG in %s: nothing happened for %d s\n", progress.scenario, seconds);
      if (Executor* executor = progress.executor) {
        const EngineStats stats = executor->stats();
        std::fprintf(stderr, "in flight %lld, wakeups %llu, admission waits %llu\n", (long long)stats.in_flight,
                     (unsigned long long)stats.wakeups, (unsigned long long)stats.admission_waits);
        for (const auto& task : executor->unfinished(20)) {
          std::fprintf(stderr, "  task %llu state %d waits for %zu\n", (unsigned long long)task.name.sequence,
                       static_cast<int>(task.state), task.predecessors.size());
        }
      }
      std::fprintf(stderr, "repeat with: stress %s %llu 1\n", progress.scenario, (unsigned long long)progress.seed);
      quit(3);
    }
  }

  std::mutex mutex_;
  std::condition_variable cv_;
  bool end_ = false;
  std::thread thread_;
};

struct Setup {
  Settings settings;
  int cpus = 1;
  int simulated = 0;         // devices; or
  int gpus = 0;              // devices, on two emulated GPUs
  int64_t gpu_bytes = 64 << 20;
  int lane_limit = 1 << 30;  // compute lane of each CPU device
  bool python = false;       // run a Python lane
  uint64_t seed = 1;
};

// An executor with its devices. `recording` plays the part of the GIL: recorders hold it, waits let it go, and the
// Python lane runs its tasks under it.
struct Engine {
  explicit Engine(const Setup& wanted) : setup(wanted) {
    for (int i = 0; i < setup.cpus; i++) {
      Device* device = executor.add_device("cpu:" + std::to_string(i));
      executor.set_lane_limit(device, kCompute, setup.lane_limit);
      devices.push_back(device);
    }
    if (setup.simulated) streams = std::make_unique<SimulatedStreams>(executor, setup.seed);
    for (int i = 0; i < setup.simulated; i++) {
      Device* device = executor.add_device("sim:" + std::to_string(i));
      streams->add_device(device->index, 3, 2, 1);
      device->streams = streams.get();
      devices.push_back(device);
    }
    if (setup.gpus) {
      emulator_reset(setup.seed, static_cast<size_t>(setup.gpu_bytes));
      std::string problem;
      auto opened = std::make_unique<CudaStreams>(executor, "", "", problem);  // this program is the driver
      for (int i = 0; i < setup.gpus && problem.empty(); i++) {
        devices.push_back(executor.add_device("cuda:" + std::to_string(i)));
        problem = opened->open(devices.back(), i % 2, 3, 2, 1);
      }
      CHECK(problem.empty(), "%s", problem.c_str());
      streams = std::move(opened);
    }
    for (Device* device : devices) device->memory.overwrite_freed = !setup.gpus || setup.seed % 2;
  }

  void start() {
    executor.start(setup.settings);
    if (setup.python) lane = std::thread([this] { python_lane(); });
  }

  void stop() {
    executor.stop_python();
    if (lane.joinable()) lane.join();
    CHECK(executor.stop(60000), "stop gave up");
  }

  void python_lane() {
    while (const uint32_t slot = executor.take_python(true)) {
      std::lock_guard<std::mutex> guard(recording);
      executor.run_python(slot);
    }
  }

  // Of a wait by a thread that does not hold `recording`.
  bool poll() {
    progress.beats++;
    if (!setup.python) return true;
    std::lock_guard<std::mutex> guard(recording);
    while (const uint32_t slot = executor.take_python(false)) executor.run_python(slot);
    return true;
  }
  void wait_all() {
    CHECK(executor.wait_all([this] { return poll(); }), "wait_all gave up");
  }
  void wait_task(TaskName name) {
    CHECK(executor.wait_task(name, [this] { return poll(); }), "wait_task gave up");
  }

  // Asks for admission as a recorder does: `held` is let go while it waits for space.
  void admit(int64_t nbytes, std::unique_lock<std::mutex>& held) {
    while (executor.over_bound(1, nbytes)) {
      held.unlock();
      executor.wait_for_space([this] { return poll(); });
      held.lock();
    }
  }

  Buffer* new_buffer(int device, int64_t nbytes) {
    std::lock_guard<SpinLock> guard(executor.record_lock());
    return executor.new_buffer(devices[device], nbytes);
  }

  // Everything was dropped and waited for: nothing may be left.
  void check_empty() {
    const EngineStats stats = executor.stats();
    expect_equal(stats.in_flight, 0, "tasks in flight at the end");
    expect_equal(stats.pinned_bytes, 0, "pinned bytes at the end");
    for (Device* device : devices) expect_equal(device->memory.stats().live_bytes, 0, "live bytes at the end");
    for (auto& failure : executor.failures()) failure->delivered = true;
    executor.forget_failures();
    expect_equal(executor.live_failures(), losses, "failures alive at the end");
  }

  Setup setup;
  std::unique_ptr<Streams> streams;  // GPUs' memory goes back after that of the executor's devices
  Executor executor;
  std::vector<Device*> devices;
  int losses = 0;  // of GPUs, which keep what they were lost by
  std::mutex recording;
  std::thread lane;
};

// Runs `scenario` on an engine of its own. In a thread of its own too: a thread belongs to one engine for life.
inline void with_engine(const Setup& setup, const std::function<void(Engine&)>& scenario) {
  auto engine = std::make_unique<Engine>(setup);
  progress.executor = &engine->executor;
  std::thread user([&] {
    engine->start();
    scenario(*engine);
    engine->wait_all();
    engine->check_empty();
    engine->stop();
  });
  user.join();
  if (engine->streams) engine->streams->stop();
  progress.executor = nullptr;
  if (setup.gpus) emulator_hold(1);  // a lost GPU may still run what was given up
  engine.reset();
  progress.beats++;
}

inline void in_threads(int count, const std::function<void(int)>& work) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; i++) threads.emplace_back(work, i);
  for (auto& thread : threads) thread.join();
}

inline Settings random_settings(Random& random) {
  Settings settings;
  settings.workers = random.pick({1, 2, 4, 8});
  settings.spin_microseconds = random.pick({0, 0, 40});
  settings.inline_bytes = random.pick({0, 2048});
  settings.shuffle_seed = random.chance(50) ? random.next() | 1 : 0;
  return settings;
}
