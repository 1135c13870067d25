// Which core a thread runs on, and where the kernel may wake it. Linux only; elsewhere nothing is known and nothing done.
#pragma once
#include <pthread.h>
#include <sched.h>

namespace dagrun {

// The core that the calling thread runs on; -1: not known.
inline int current_core() {
#ifdef __linux__
  return sched_getcpu();
#else
  return -1;
#endif
}

// Keeps a sleeping thread off one core until it is awake: the kernel wakes a thread on the core where it last ran or on
// that of the thread that wakes it, and where both are one core that is busy, the thread waits there for milliseconds.
// What the process allows is respected: with no other core allowed nothing happens.
class KeptOff {
 public:
  // By whoever is about to wake the thread.
  void begin(pthread_t thread, int core) {
#ifdef __linux__
    if (pthread_getaffinity_np(thread, sizeof(allowed_), &allowed_)) return;
    cpu_set_t others = allowed_;
    CPU_CLR(core, &others);
    if (CPU_COUNT(&others) == 0 || CPU_EQUAL(&others, &allowed_)) return;
    kept_off_ = pthread_setaffinity_np(thread, sizeof(others), &others) == 0;
#else
    (void)thread, (void)core;
#endif
  }

  // By the thread itself, awake: every core that it was allowed is allowed again.
  void end() {
#ifdef __linux__
    if (kept_off_) pthread_setaffinity_np(pthread_self(), sizeof(allowed_), &allowed_);
    kept_off_ = false;
#endif
  }

 private:
#ifdef __linux__
  bool kept_off_ = false;
  cpu_set_t allowed_;
#endif
};

// Binds the calling thread to one core.
inline void bind_to_core(int core) {
#ifdef __linux__
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
#else
  (void)core;
#endif
}

}  // namespace dagrun
