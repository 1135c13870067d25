// Bounds, dropped handles, exported memory, memory limits.
#pragma once
#include <sched.h>

#include "programs.h"

// A slow consumer under small bounds, from several threads: the bounds hold and everybody gets on.
inline void bounds(Random random) {
  Setup setup;
  setup.settings = random_settings(random);
  setup.settings.max_inflight_tasks = random.pick({1, 2, 7, 0});
  setup.settings.max_inflight_bytes = random.pick({0, 4096, 20000});
  const int threads = static_cast<int>(random.pick({1, 1, 3}));
  constexpr int64_t kBytes = 1000;
  Body body;
  body.function = mix;
  body.params = {0, 0, 0, 0};
  OperandSpec spec;
  spec.region = {0, kBytes, 0, 0};
  spec.mode = kWrite | kOverwrite;
  body.operands.push_back(spec);
  body.cost = 1 << 20;
  with_engine(setup, [&](Engine& engine) {
    std::atomic<int64_t> most{0};
    in_threads(threads, [&](int) {
      for (int i = 0; i < 300; i++) {
        std::unique_lock<std::mutex> held(engine.recording);
        engine.admit(kBytes, held);
        Operand operand{engine.new_buffer(0, kBytes), 0};
        Call call;
        call.body = &body;
        call.operands = &operand;
        {
          std::lock_guard<SpinLock> guard(engine.executor.record_lock());
          engine.executor.push(call);
          most = std::max<int64_t>(most, engine.executor.in_flight());
        }
        engine.executor.drop_handle(operand.buffer);
      }
    });
    const int64_t bound = setup.settings.max_inflight_tasks;
    CHECK(!bound || most <= bound, "%lld tasks in flight, bounded to %lld (%d threads record)", (long long)most.load(),
          (long long)bound, threads);
    engine.wait_all();
    const int64_t peak = engine.devices[0]->memory.stats().peak_bytes, limit = setup.settings.max_inflight_bytes;
    CHECK(!limit || peak <= limit + 1024 * (threads + 1), "%lld bytes at the peak, bounded to %lld (%d threads record)",
          (long long)peak, (long long)limit, threads);
  });
}

// Handles of shared buffers are taken and dropped by several threads while tasks use them.
inline void handles(Random random) {
  Setup setup;
  setup.settings = random_settings(random);
  constexpr int kThreads = 4, kRounds = 150;
  constexpr int64_t kBytes = 200;
  Body body;
  body.function = mix;
  body.params = {2, 0, 0, 0, kWrite | kOverwrite, kBytes, 0, 0, kRead, kBytes, 0, 0};
  for (uint16_t i = 0; i < 2; i++) {
    OperandSpec spec;
    spec.region = {0, kBytes, 0, 0};
    spec.mode = i ? uint8_t{kRead} : uint8_t{kWrite | kOverwrite};
    spec.index = i;
    body.operands.push_back(spec);
  }
  std::vector<uint64_t> seeds;
  for (int i = 0; i < kThreads; i++) seeds.push_back(random.next());
  with_engine(setup, [&](Engine& engine) {
    struct Shelf {
      SpinLock lock;
      Buffer* buffer = nullptr;
    };
    std::vector<Shelf> shelves(3);
    for (Shelf& shelf : shelves) {
      shelf.buffer = engine.new_buffer(0, kBytes);
      Operand both[2] = {{shelf.buffer, 0}, {engine.new_buffer(0, kBytes), 0}};
      std::memset(engine.executor.export_block(both[1].buffer)->memory, 7, kBytes);
      Call call;
      call.body = &body;
      call.operands = both;
      std::lock_guard<SpinLock> guard(engine.executor.record_lock());
      engine.executor.push(call);
      Block* block = both[1].buffer->block;
      engine.executor.drop_block(block);
      engine.executor.drop_handle(both[1].buffer);
    }
    in_threads(kThreads, [&](int thread) {
      Random own{seeds[thread]};
      for (int i = 0; i < kRounds; i++) {
        Operand operands[2] = {{engine.new_buffer(0, kBytes), 0}, {}};
        {
          Shelf& shelf = shelves[own.below(3)];
          std::lock_guard<SpinLock> guard(shelf.lock);
          operands[1].buffer = shelf.buffer;
          engine.executor.add_handle(shelf.buffer);
        }
        Call call;
        call.body = &body;
        call.operands = operands;
        {
          std::lock_guard<SpinLock> guard(engine.executor.record_lock());
          engine.executor.push(call);
        }
        engine.executor.drop_handle(operands[1].buffer);
        Buffer* old = operands[0].buffer;
        if (own.chance(60)) {
          Shelf& shelf = shelves[own.below(3)];
          std::lock_guard<SpinLock> guard(shelf.lock);
          std::swap(old, shelf.buffer);
        }
        engine.executor.drop_handle(old);
      }
    });
    for (Shelf& shelf : shelves) engine.executor.drop_handle(shelf.buffer);
  });
}

// What record does before it writes to a buffer: exported memory stays as it is, the write goes to a copy.
inline void detach_if_exported(Engine& engine, const Body& detach, Buffer* buffer) {
  if (!engine.executor.needs_detach(buffer)) return;
  Operand operand{buffer, 0};
  Call call;
  call.body = &detach;
  call.operands = &operand;
  call.device = buffer->device->index;
  engine.executor.push(call);
}

inline Body detach_body(int64_t nbytes) {
  Body detach;
  detach.detaches = true;
  detach.cost = 1 << 20;
  OperandSpec whole;
  whole.region = {0, nbytes, 0, 0};
  whole.mode = kRead | kWrite;
  detach.operands.push_back(whole);
  return detach;
}

// An export shows the values at the time it was made until it is given back, whatever is written meanwhile.
inline void exports(Random random) {
  constexpr int64_t kBytes = 200;
  Setup setup;
  setup.settings = random_settings(random);
  setup.simulated = random.pick({0, 1});
  setup.seed = random.next();
  const Body detach = detach_body(kBytes);
  Shape shape;
  shape.nbytes = kBytes;
  shape.buffers = 3;
  shape.devices = 1;
  shape.steps = 150;
  std::deque<Step> program = random_program(random, shape);
  struct Export {
    Block* block;
    std::vector<char> bytes;
  };
  with_engine(setup, [&](Engine& engine) {
    const int device = setup.simulated;  // the last one: simulated where there is one
    for (Step& step : program) step.device = device;
    Machine machine(engine, shape);
    machine.buffers.resize(shape.buffers);
    for (Buffer*& buffer : machine.buffers) buffer = engine.new_buffer(device, kBytes);
    Model model(shape.buffers, kBytes);
    std::vector<Export> held_exports;
    auto give_back = [&](size_t i) {
      const Export& one = held_exports[i];
      CHECK(!std::memcmp(one.block->memory, one.bytes.data(), kBytes), "exported memory changed under its holder");
      engine.executor.drop_block(one.block);
      held_exports.erase(held_exports.begin() + static_cast<std::ptrdiff_t>(i));
    };
    for (Step& step : program) {
      {
        std::unique_lock<std::mutex> held(engine.recording);
        for (const Use& use : step.uses) {
          std::lock_guard<SpinLock> guard(engine.executor.record_lock());
          if ((use.mode & kWrite) && step.renews < 0) detach_if_exported(engine, detach, machine.buffers[use.buffer]);
        }
        machine.record(step, held);
      }
      model.run(step);
      if (random.chance(25) && step.sequence > static_cast<uint64_t>(shape.buffers)) {
        const int number = static_cast<int>(random.below(shape.buffers));
        machine.wait(number);
        std::lock_guard<SpinLock> guard(engine.executor.record_lock());
        held_exports.push_back({engine.executor.export_block(machine.buffers[number]), model.memory[number].bytes});
      }
      while (!held_exports.empty() && random.chance(30)) give_back(random.below(held_exports.size()));
    }
    engine.wait_all();
    machine.check(model);
    while (!held_exports.empty()) give_back(0);
    machine.drop();
  });
}

// The copy is made by a worker while the export is given back and the next write is recorded.
inline void detaches(Random random) {
  constexpr int64_t kBytes = 1 << 16;
  Setup setup;
  setup.settings = random_settings(random);
  setup.settings.workers = random.pick({2, 4});
  const Body detach = detach_body(kBytes);
  Body body;
  body.function = mix;
  body.params = {1, 0, 0, 0, kWrite | kOverwrite, 8, 0, 0};
  body.operands = detach.operands;
  body.operands[0].region = {0, 8, 0, 0};
  body.operands[0].mode = kWrite | kOverwrite;
  with_engine(setup, [&](Engine& engine) {
    Operand operand{engine.new_buffer(0, kBytes), 0};
    auto write = [&] {
      std::lock_guard<SpinLock> guard(engine.executor.record_lock());
      detach_if_exported(engine, detach, operand.buffer);
      Call call;
      call.body = &body;
      call.operands = &operand;
      engine.executor.push(call);
    };
    write();
    for (int round = 0; round < 200; round++) {
      engine.wait_all();
      Block* block;
      {
        std::lock_guard<SpinLock> guard(engine.executor.record_lock());
        block = engine.executor.export_block(operand.buffer);
      }
      write();
      for (int64_t n = random.below(4); n > 0; n--) sched_yield();
      engine.executor.drop_block(block);
      for (int i = 0; i < 4; i++) write();
    }
    engine.executor.drop_handle(operand.buffer);
  });
}

// A refused copy poisons the write it was for; once the export is given back, the buffer can be written again.
inline void memory_limit(Random random) {
  constexpr int64_t kBytes = 4096;
  Setup setup;
  setup.settings = random_settings(random);
  const Body detach = detach_body(kBytes);
  Body body;
  body.function = mix;
  body.params = {1, 0, 0, 0, kWrite | kOverwrite, kBytes, 0, 0};
  body.operands = detach.operands;
  body.operands[0].mode = kWrite | kOverwrite;
  with_engine(setup, [&](Engine& engine) {
    engine.devices[0]->memory.limit_bytes = 3 * kBytes / 2;
    Operand operand{engine.new_buffer(0, kBytes), 0};
    auto write = [&] {
      std::lock_guard<SpinLock> guard(engine.executor.record_lock());
      detach_if_exported(engine, detach, operand.buffer);
      Call call;
      call.body = &body;
      call.operands = &operand;
      engine.executor.push(call);
    };
    auto failure = [&] {
      engine.wait_all();
      const auto found = engine.executor.poison_of(operand.buffer, {0, kBytes, 0, 0});
      return found ? found->code : 0;
    };
    for (int round = 0; round < 20; round++) {
      write();
      expect_equal(failure(), 0, "code of a write with memory");
      Block* block;
      {
        std::lock_guard<SpinLock> guard(engine.executor.record_lock());
        block = engine.executor.export_block(operand.buffer);
      }
      write();
      expect_equal(failure(), kOutOfMemory, "code of a write without memory for a copy");
      engine.executor.drop_block(block);
      write();
      expect_equal(failure(), 0, "code of a write after the export was given back");
    }
    engine.executor.drop_handle(operand.buffer);
  });
}
