// Random programs over buffers of bytes, and the serial model that says what each must give: values, and who is
// poisoned by whom. The bodies touch their bytes with plain loads and stores, so that a sanitizer sees a missing edge.
#pragma once
#include <sched.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <set>
#include <tuple>

#include "harness.h"

// How many bodies run at once on a lane of a device, against its bound.
struct LaneWatch {
  int limit = 1 << 30;
  std::atomic<int> running{0};
  void enter() {
    const int now = running.fetch_add(1, std::memory_order_relaxed) + 1;
    CHECK(now <= limit, "%d tasks run at once on a lane bounded to %d", now, limit);
  }
  void leave() { running.fetch_sub(1, std::memory_order_relaxed); }
};

template <typename Visit>
void each_byte(const Region& region, Visit visit) {
  for (int64_t b = region.lo; b < region.hi; b++) {
    if (!region.stride || (b - region.lo) % region.stride < region.width) visit(b);
  }
}

// params: operands, code to fail with, scalars, LaneWatch*, then (mode, hi - lo, stride, width) of each operand.
enum Param { kOperandCount, kCode, kScalarCount, kWatch, kFirstOperand, kOperandParams = 4 };

// Order-sensitive on purpose: every byte written depends on every byte read, in order.
inline int32_t mix(char** data, const int64_t* params, const uint64_t* scalars, int64_t* error) {
  auto* watch = reinterpret_cast<LaneWatch*>(params[kWatch]);
  if (watch) watch->enter();
  const int64_t count = params[kOperandCount];
  uint64_t hash = 0x9E3779B97F4A7C15ULL;
  auto fold = [&hash](uint64_t value) { hash = (hash ^ value) * 0x100000001B3ULL + (hash >> 47); };
  for (int64_t i = 0; i < params[kScalarCount]; i++) fold(scalars[i]);
  auto region = [&](int64_t i) {
    const int64_t* p = params + kFirstOperand + kOperandParams * i;
    return Region{0, p[1], p[2], p[3]};
  };
  auto mode = [&](int64_t i) { return params[kFirstOperand + kOperandParams * i]; };
  for (int64_t i = 0; i < count; i++) {
    if (mode(i) & kRead) each_byte(region(i), [&](int64_t b) { fold(static_cast<uint8_t>(data[i][b])); });
  }
  if (hash % 8 == 0) sched_yield();
  for (int64_t i = 0; i < count; i++) {
    if (!(mode(i) & kWrite)) continue;
    each_byte(region(i), [&](int64_t b) {
      fold(static_cast<uint64_t>(b));
      data[i][b] = static_cast<char>((mode(i) & kRead ? data[i][b] * 5 : 0) + static_cast<char>(hash >> 32));
    });
  }
  if (watch) watch->leave();
  for (int64_t i = 0; i < 4; i++) error[i] = params[kCode] + i;
  return static_cast<int32_t>(params[kCode]);
}

struct Use {
  int buffer;
  int64_t view;   // offset of the operand's view
  Region region;  // in the buffer
  uint8_t mode;
};

// One task of a program. `renews` >= 0: that buffer is dropped first, and the task fills a new one in its place.
struct Step {
  std::vector<Use> uses;
  int renews = -1;
  int device = 0;
  int32_t code = 0;
  bool copies = false;  // the second use to the first; else `mix`
  std::vector<uint64_t> scalars;
  Body body;
  uint64_t sequence = 0;  // given when recorded
};

struct Shape {
  int buffers = 6;
  int64_t nbytes = 300;
  int devices = 1;
  int steps = 200;
  int most_uses = 4;
  int failing = 0;       // percent of steps
  int renewing = 5;      // percent
  int python = 0;        // percent
  bool lanes = false;    // use the copy and communication lanes too
  bool priorities = false;
  bool empty = false;    // some regions hold no byte
  int shared = 0;        // the first so many buffers are only read
  bool pieces = false;   // some operations are cut; only where one thread records
};

inline Region random_region(Random& random, int64_t nbytes, bool empty) {
  const int64_t lo = random.below(nbytes);
  if (empty && random.chance(10)) return {lo, lo, 0, 0};
  switch (random.below(4)) {
    case 0: return {0, nbytes, 0, 0};
    case 1:
    case 2: return {lo, lo + 1 + random.below(nbytes - lo), 0, 0};
    default: {
      const int64_t stride = random.pick<int64_t>({4, 12, 12, 30});
      const int64_t width = 1 + random.below(stride);
      if (lo + width > nbytes) return {0, nbytes, 0, 0};
      const int64_t count = 1 + random.below((nbytes - lo - width) / stride + 1);
      return {lo, lo + (count - 1) * stride + width, stride, width};
    }
  }
}

inline void finish_step(Step& step, Random& random, LaneWatch* watch) {
  for (int64_t n = random.below(5); n > 0; n--) step.scalars.push_back(random.next());
  Body& body = step.body;
  body.function = mix;
  body.params = {static_cast<int64_t>(step.uses.size()), step.code, static_cast<int64_t>(step.scalars.size()),
                 reinterpret_cast<int64_t>(body.lane == kCompute ? watch : nullptr)};
  for (size_t i = 0; i < step.uses.size(); i++) {
    const Use& use = step.uses[i];
    OperandSpec spec;
    spec.region = shifted(use.region, -use.view);
    spec.offset = use.region.lo - use.view;
    spec.mode = use.mode;
    spec.index = static_cast<uint16_t>(i);
    body.operands.push_back(spec);
    for (int64_t p : {int64_t{use.mode}, use.region.hi - use.region.lo, use.region.stride, use.region.width})
      body.params.push_back(p);
  }
  body.cost = random.pick<int64_t>({100, 100, 1 << 20});  // sometimes too long to run inline or by a waiter
}

// Makes the last step, which renews a buffer, an operation whose result may take over the memory of its input.
inline void add_donating(std::deque<Step>& program, Random& random, const Shape& shape, LaneWatch* watch) {
  const int output = program.back().renews, device = program.back().device;
  const int other = static_cast<int>(random.below(shape.buffers - 1));
  const int donor = other < output ? other : other + 1;
  const int pieces = shape.pieces ? random.pick({1, 3}) : 1;
  const int64_t cost = random.pick<int64_t>({100, 1 << 20});
  for (int piece = 0; piece < pieces; piece++) {
    Step& step = piece ? program.emplace_back() : program.back();
    step.device = device;
    const Region region{shape.nbytes * piece / pieces, shape.nbytes * (piece + 1) / pieces, 0, 0};
    step.uses.push_back({output, 0, region, kWrite | kOverwrite});
    step.uses.push_back({donor, 0, region, kRead | kDonates});
    if (random.chance(shape.failing)) step.code = 1 + static_cast<int32_t>(random.below(100));
    finish_step(step, random, watch);
    step.body.cost = cost;
    step.body.donates = true;
    step.body.piece = static_cast<uint32_t>(piece);
    step.body.pieces = static_cast<uint32_t>(pieces);
  }
}

// The first steps fill the buffers. Steps stay where they are: the engine keeps pointers to their bodies.
inline std::deque<Step> random_program(Random& random, const Shape& shape, LaneWatch* watch = nullptr) {
  std::deque<Step> program;
  for (int i = 0; i < shape.buffers + shape.steps; i++) {
    Step& step = program.emplace_back();
    step.device = static_cast<int>(random.below(shape.devices));
    if (i < shape.buffers || random.chance(shape.renewing)) {
      step.renews = i < shape.buffers ? i : static_cast<int>(shape.shared + random.below(shape.buffers - shape.shared));
      if (i >= shape.buffers && random.chance(60)) {
        add_donating(program, random, shape, watch);
        continue;
      }
      step.uses.push_back({step.renews, 0, {0, shape.nbytes, 0, 0}, kWrite | kOverwrite});
    } else {
      int64_t uses = 1 + random.below(shape.most_uses);
      if (random.chance(3)) uses = 20;
      for (int64_t u = 0; u < uses; u++) {
        Use use;
        use.mode = u == 0 ? random.pick<uint8_t>({kWrite | kOverwrite, kRead | kWrite})
                          : random.pick<uint8_t>({kRead, kRead, kRead, kWrite | kOverwrite, kRead | kWrite});
        const int first = use.mode & kWrite ? shape.shared : 0;
        use.buffer = static_cast<int>(first + random.below(shape.buffers - first));
        use.region = random_region(random, shape.nbytes, shape.empty);
        use.view = random.below(use.region.lo + 1);
        step.uses.push_back(use);
      }
      if (random.chance(shape.failing)) step.code = 1 + static_cast<int32_t>(random.below(100));
      if (shape.lanes) step.body.lane = random.pick({kCompute, kCompute, kCopy, kCommunication});
      if (random.chance(shape.python)) step.body.lane = kPython;
      if (shape.priorities) step.body.priority = random.pick({0, 0, 1, 7});
    }
    finish_step(step, random, watch);
  }
  return program;
}

// ---- the serial model

struct Model {
  using Poisoned = std::tuple<int64_t, int64_t, int64_t, int64_t, uint64_t>;  // region and the failed task
  struct Memory {
    std::vector<char> bytes;
    std::vector<std::pair<Region, uint64_t>> poison;
  };

  Model(int buffers, int64_t nbytes) : memory(buffers) {
    for (Memory& m : memory) m.bytes.resize(nbytes);
  }

  void run(const Step& step) {
    if (step.renews >= 0) memory[step.renews].poison.clear();
    uint64_t failure = 0;
    for (const Use& use : step.uses) {
      if (!(use.mode & kRead) || use.region.lo >= use.region.hi) continue;
      for (const auto& [region, sequence] : memory[use.buffer].poison) {
        if (overlaps(region, use.region) && (!failure || sequence < failure)) failure = sequence;
      }
    }
    if (!failure) {
      std::vector<char*> data;
      for (const Use& use : step.uses) data.push_back(memory[use.buffer].bytes.data() + use.region.lo);
      if (compute(step, data.data())) {
        failure = step.sequence;
        failures.push_back(step.sequence);
      }
    }
    for (const Use& use : step.uses) {
      if (!(use.mode & kWrite) || use.region.lo >= use.region.hi) continue;
      auto& poison = memory[use.buffer].poison;
      if (failure || (use.mode & kOverwrite)) {
        poison.erase(std::remove_if(poison.begin(), poison.end(),
                                    [&](const auto& p) { return covers(use.region, p.first); }),
                     poison.end());
      }
      if (failure) poison.emplace_back(use.region, failure);
    }
  }

  static bool compute(const Step& step, char** data) {
    std::vector<int64_t> params = step.body.params;
    if (step.copies) {
      if (!step.code) std::memcpy(data[0], data[1], static_cast<size_t>(params[0]));
      return step.code;
    }
    params[kWatch] = 0;
    params[kCode] = step.code;
    int64_t error[4];
    return mix(data, params.data(), step.scalars.data(), error);
  }

  // Where the values of a buffer can be read; nullptr: it never had memory.
  static const char* view(Buffer* buffer) {
    char* data = buffer->data.load();
    const bool on_gpu = data && buffer->device->memory.source;
    return on_gpu ? static_cast<char*>(emulator_host_view(reinterpret_cast<unsigned long long>(data))) : data;
  }

  // After everything that writes `buffer` is done.
  void check(int number, Buffer* buffer) const {
    const Memory& expected = memory[number];
    const char* actual = view(buffer);
    std::vector<bool> lost(expected.bytes.size());  // poisoned: no program sees these bytes
    for (const auto& [region, sequence] : expected.poison) each_byte(region, [&](int64_t b) { lost[b] = true; });
    for (size_t b = 0; b < expected.bytes.size(); b++) {
      CHECK(lost[b] || actual, "buffer %d has no memory", number);
      CHECK(lost[b] || actual[b] == expected.bytes[b], "byte %zu of buffer %d is %d, serially %d", b, number, actual[b],
            expected.bytes[b]);
    }
    std::multiset<Poisoned> serial, found;
    for (const auto& [r, sequence] : expected.poison) serial.emplace(r.lo, r.hi, r.stride, r.width, sequence);
    if (const auto* poison = buffer->poison.load()) {
      for (const Poison& p : *poison)
        found.emplace(p.region.lo, p.region.hi, p.region.stride, p.region.width, p.failure->sequence);
    }
    CHECK(serial == found, "buffer %d holds %zu poisoned regions, serially %zu (or others)", number, found.size(),
          serial.size());
  }

  std::vector<Memory> memory;
  std::vector<uint64_t> failures;
};

// ---- running a program on an engine

// A stand-in for a Python object; every one made must be given back.
struct Object {
  static inline std::atomic<int> alive{0};
  Object() { alive++; }
  ~Object() { alive--; }
};

inline void use_python(Engine& engine) {
  engine.executor.dispose = [](void* object) { delete static_cast<Object*>(object); };
  engine.executor.python_body = [](const Body* body, Arguments& arguments, char** data, Failure* failure) {
    int64_t details[4];
    if (!body->function(data, body->params.data(), arguments.scalars, details)) return 0;
    failure->exception = new Object();
    return 1;
  };
}

struct Machine {
  Machine(Engine& on, const Shape& shape) : engine(on), nbytes(shape.nbytes), buffers(shape.buffers) {}

  // With `held` (of engine.recording) held; it is let go while the engine has no space or runs the task serially.
  TaskName record(Step& step, std::unique_lock<std::mutex>& held) {
    Executor& executor = engine.executor;
    if (bounded) engine.admit(step.renews >= 0 ? nbytes : 0, held);
    Buffer* dropped = nullptr;
    TaskName name;
    {
      std::lock_guard<SpinLock> guard(executor.record_lock());
      if (step.renews >= 0) {
        dropped = buffers[step.renews];
        buffers[step.renews] = executor.new_buffer(engine.devices[step.device], nbytes);
      }
      std::vector<Operand> operands;
      for (const Use& use : step.uses) operands.push_back({buffers[use.buffer], use.view});
      Call call;
      call.body = &step.body;
      call.operands = operands.data();
      call.scalars = step.scalars.data();
      call.scalar_count = static_cast<int>(step.scalars.size());
      call.device = engine.devices[step.device]->index;
      if (step.body.lane == kPython) call.callable = new Object();
      if (executor.may_inline(call)) {
        executor.run_inline(call);
        step.sequence = buffers[step.uses[0].buffer]->last_writer;
      } else {
        name = executor.push(call);
        step.sequence = name.sequence;
      }
    }
    if (dropped) executor.drop_handle(dropped);
    if (name.slot && executor.settings().serial) {
      held.unlock();
      if (executor.slot(name.slot).state.load() == State::kPending)
        executor.wait_ready(name, [this] { return engine.poll(); });
      if (step.body.lane == kPython) held.lock();
      executor.run_owned(name);
      if (step.body.lane != kPython) held.lock();
    }
    return name;
  }

  void wait(int number) {
    for (;;) {
      TaskName name;
      {
        std::lock_guard<SpinLock> guard(engine.executor.record_lock());
        name = engine.executor.pending_writer(buffers[number], {0, nbytes, 0, 0});
      }
      if (!name.slot) return;
      engine.wait_task(name);
    }
  }

  void check(const Model& model) {
    for (size_t i = 0; i < buffers.size(); i++) model.check(static_cast<int>(i), buffers[i]);
  }

  void drop() {
    for (Buffer* buffer : buffers) engine.executor.drop_handle(buffer);
  }

  Engine& engine;
  int64_t nbytes;
  std::vector<Buffer*> buffers;
  bool bounded = true;  // asks for admission; only with engine.recording held
};

inline void check_failures(Engine& engine, std::vector<uint64_t> expected) {
  std::sort(expected.begin(), expected.end());
  std::vector<uint64_t> found;
  for (const auto& failure : engine.executor.failures()) found.push_back(failure->sequence);
  CHECK(found == expected, "%zu tasks failed by themselves, serially %zu (or others)", found.size(), expected.size());
}
