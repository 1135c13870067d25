// Random programs over the CPU and emulated GPUs: kernels, copies each way, and what goes wrong: launches and memory that
// are refused, and GPUs that are lost.
#pragma once
#include <map>

#include "programs.h"

// `mix`, as a GPU's kernel.
inline void mix_kernel(const KernelCall* call, unsigned, unsigned, unsigned) {
  int64_t details[4];
  if (const int32_t code = mix(const_cast<char**>(call->data), call->params, call->scalars, details)) {
    std::copy(details, details + 4, call->error + 1);
    call->error[0] = code;
  }
}

inline void put_on_gpu(Step& step) {
  Kernel kernel;
  kernel.kind = step.copies ? Kernel::kCopy : Kernel::kLaunch;
  kernel.function = reinterpret_cast<void*>(&mix_kernel);
  kernel.blocks = kernel.threads = 1;
  step.body.kernel = std::make_shared<Kernel>(kernel);
  step.body.function = nullptr;
}

inline void make_copy(Step& step, Random& random, const Shape& shape, int target, int source) {
  const int64_t nbytes = 1 + random.below(shape.nbytes);
  step.copies = true;
  step.device = target % shape.devices ? target % shape.devices : source % shape.devices;
  step.body.lane = kCopy;
  step.body.params = {nbytes};
  for (auto [buffer, mode] : {std::pair<int, uint8_t>{target, kWrite | kOverwrite}, {source, kRead}}) {
    const int64_t lo = random.below(shape.nbytes - nbytes + 1);
    step.uses.push_back({buffer, 0, {lo, lo + nbytes, 0, 0}, mode});
    OperandSpec spec;
    spec.region = step.uses.back().region;
    spec.offset = lo;
    spec.mode = mode;
    spec.index = static_cast<uint16_t>(step.uses.size() - 1);
    step.body.operands.push_back(spec);
  }
}

// Buffer i stays on device i % devices, and device 0 is the CPU. Only copies cross. The first steps fill the buffers.
inline std::deque<Step> random_gpu_program(Random& random, const Shape& shape) {
  std::deque<Step> program;
  for (int i = 0; i < shape.buffers + shape.steps; i++) {
    Step& step = program.emplace_back();
    const int number = i < shape.buffers ? i : static_cast<int>(random.below(shape.buffers));
    const int other = static_cast<int>(random.below(shape.buffers));
    step.device = number % shape.devices;
    if (i >= shape.buffers && random.chance(30) && other != number && (step.device || other % shape.devices)) {
      make_copy(step, random, shape, number, other);
      put_on_gpu(step);
      continue;
    }
    if (i < shape.buffers || random.chance(shape.renewing)) {
      step.renews = number;
      step.uses.push_back({number, 0, {0, shape.nbytes, 0, 0}, kWrite | kOverwrite});
    } else {
      for (int64_t u = 0, uses = 1 + random.below(shape.most_uses); u < uses; u++) {
        Use use;
        use.mode = u ? random.pick<uint8_t>({kRead, kRead, kWrite | kOverwrite, kRead | kWrite})
                     : random.pick<uint8_t>({kWrite | kOverwrite, kRead | kWrite});
        use.buffer = step.device + shape.devices * static_cast<int>(random.below(shape.buffers / shape.devices));
        use.region = random_region(random, shape.nbytes, false);
        use.view = random.below(use.region.lo + 1);
        step.uses.push_back(use);
      }
      if (random.chance(shape.failing)) step.code = 1 + static_cast<int32_t>(random.below(100));
      if (!step.device && random.chance(shape.python)) step.body.lane = kPython;
    }
    finish_step(step, random, nullptr);
    if (step.device) put_on_gpu(step);
  }
  return program;
}

// After a GPU was lost: what is not poisoned is as if nothing had gone wrong.
inline void check_unpoisoned(const Model& model, int number, Buffer* buffer) {
  std::vector<bool> lost(model.memory[number].bytes.size());
  if (const auto* poison = buffer->poison.load()) {
    for (const Poison& p : *poison) each_byte(p.region, [&](int64_t b) { lost[b] = true; });
  }
  const char* actual = Model::view(buffer);
  for (size_t b = 0; b < lost.size(); b++) {
    CHECK(lost[b] || (actual && actual[b] == model.memory[number].bytes[b]), "byte %zu of buffer %d is not poisoned and wrong", b,
          number);
  }
}

// Several threads record on the same buffers, as in `shared`. `trouble` orders from the emulator what goes wrong.
inline void run_on_gpus(Random& random, Setup setup, Shape shape, bool lossy, const std::function<void()>& trouble) {
  setup.settings.max_inflight_tasks = random.pick({0, 8, 1 << 15});
  setup.python = random.chance(20);
  setup.seed = random.next();
  shape.devices = 1 + setup.gpus;
  shape.buffers = 3 * shape.devices;
  shape.renewing = random.pick({5, 30});
  shape.python = setup.python ? 30 : 0;
  std::vector<std::deque<Step>> programs;
  for (int i = 0; i < 3; i++) programs.push_back(random_gpu_program(random, shape));
  with_engine(setup, [&](Engine& engine) {
    if (setup.python) use_python(engine);
    trouble();
    Machine machine(engine, shape);
    for (int i = 0; i < shape.buffers; i++) machine.buffers[i] = engine.new_buffer(i % shape.devices, shape.nbytes);
    in_threads(3, [&](int thread) {
      for (Step& step : programs[thread]) {
        std::unique_lock<std::mutex> held(engine.recording);
        machine.record(step, held);
        held.unlock();
        if (step.sequence % 32 == 0) engine.wait_all();
      }
    });
    engine.wait_all();
    std::map<uint64_t, Step*> order;
    for (auto& program : programs) {
      for (Step& step : program) order[step.sequence] = &step;
    }
    for (const auto& failure : engine.executor.failures()) {  // who was refused is known only now
      if (failure->code == kRefused || failure->code == kOutOfMemory) order[failure->sequence]->code = 1;
      if (failure->code == kDeviceFault) engine.losses++;
    }
    Model model(shape.buffers, shape.nbytes);
    for (auto& [sequence, step] : order) model.run(*step);
    if (lossy) {
      for (int i = 0; i < shape.buffers; i++) check_unpoisoned(model, i, machine.buffers[i]);
      CHECK(engine.losses <= 1, "%d errors tell of one lost GPU", engine.losses);
    } else {
      machine.check(model);
      check_failures(engine, model.failures);
    }
    machine.drop();
  });
  char text[4096];
  CHECK(!emulator_misuses(text, sizeof text), "a driver would not have taken this: %s", text);
  emulator_pinned_peak();
  CHECK(lossy || !emulator_pinned_peak(), "pinned memory was not given back");
  expect_equal(Object::alive, 0, "Python objects never given back");
}

inline Setup gpu_setup(Random& random) {
  Setup setup;
  setup.settings = random_settings(random);
  setup.gpus = random.pick({1, 2, 3});
  return setup;
}

inline void gpus(Random random) {
  Setup setup = gpu_setup(random);
  setup.settings.serial = random.chance(15);
  run_on_gpus(random, setup, {.steps = 80, .failing = random.pick({0, 5})}, false, [] {});
}

inline void refused_launches(Random random) {
  run_on_gpus(random, gpu_setup(random), {.steps = 60, .failing = random.pick({0, 5})}, false, [&] {
    emulator_inject("launch", 1 + random.below(80), random.pick({1, 701}));
    emulator_inject("pinned", 1 + random.below(3), 2);
    emulator_inject("allocate", 1 + random.below(3), 2);
    emulator_inject("late", 1 + random.below(40), 200);
  });
}

// Blocks of their own, of which there are hardly as many as there are buffers.
inline void tight_memory(Random random) {
  Setup setup = gpu_setup(random);
  const int64_t nbytes = 72 << 10;
  setup.gpu_bytes = nbytes * random.pick({4, 7, 9});
  run_on_gpus(random, setup, {.nbytes = nbytes, .steps = 30, .most_uses = 2}, false, [] {});
}

inline void lost_gpus(Random random) {
  run_on_gpus(random, gpu_setup(random), {.steps = 60}, true, [&] {
    const long countdown = 1 + random.below(150);
    switch (random.below(4)) {
      case 0: return emulator_inject("fault", countdown, 700);
      case 1: return emulator_inject("launch", countdown, 719);
      case 2: return emulator_inject("query", countdown, 719);
      default: return emulator_inject("copy", countdown, 700);
    }
  });
}
