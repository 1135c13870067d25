// The life of the engine: started, stopped, given up on, reconfigured and watched while it runs.
#pragma once
#include <sched.h>

#include "programs.h"

inline Body counting_body(std::atomic<int64_t>& count) {
  Body body;
  body.params = {reinterpret_cast<int64_t>(&count)};
  body.function = [](char**, const int64_t* params, const uint64_t*, int64_t*) {
    ++*reinterpret_cast<std::atomic<int64_t>*>(params[0]);
    return 0;
  };
  return body;
}

inline void push_some(Engine& engine, const Body& body, int count) {
  Call call;
  call.body = &body;
  for (int i = 0; i < count; i++) {
    std::lock_guard<SpinLock> guard(engine.executor.record_lock());
    engine.executor.push(call);
  }
}

// Started and stopped many times, with other settings each time; stop finishes what is in flight.
inline void cycles(Random random) {
  Setup setup;
  setup.settings = random_settings(random);
  std::atomic<int64_t> count{0};
  const Body body = counting_body(count);
  with_engine(setup, [&](Engine& engine) {
    int64_t expected = 0;
    for (int round = 0; round < 40; round++) {
      const int some = static_cast<int>(random.below(200));
      push_some(engine, body, some);
      expected += some;
      if (random.chance(30)) engine.executor.pause();
      CHECK(engine.executor.stop(60000), "stop gave up");
      expect_equal(count, expected, "tasks that ran before stop returned");
      engine.executor.start(random_settings(random));
    }
  });
}

// stop gives up on a body that does not return; when it does return after all, nothing is harmed.
inline void unfinished_stop(Random random) {
  struct Gate {
    std::atomic<bool> inside{false}, open{false}, left{false};
  } gate;
  Body blocked;
  blocked.params = {reinterpret_cast<int64_t>(&gate)};
  blocked.cost = 1 << 20;
  blocked.function = [](char**, const int64_t* params, const uint64_t*, int64_t*) {
    auto& gate = *reinterpret_cast<Gate*>(params[0]);
    gate.inside = true;
    while (!gate.open) sched_yield();
    gate.left = true;
    return 0;
  };
  std::atomic<int64_t> count{0};
  const Body body = counting_body(count);
  // The threads that were given up on look at the engine and its bodies once more: these live as long as the program.
  static auto& bodies = *new std::deque<Body>();
  static auto& kept = *new std::vector<Engine*>();
  Setup setup;
  setup.settings = random_settings(random);
  auto* engine = new Engine(setup);
  kept.push_back(engine);
  progress.executor = &engine->executor;
  std::thread([&] {
    engine->start();
    push_some(*engine, bodies.emplace_back(blocked), 1);
    while (!gate.inside) sched_yield();
    push_some(*engine, bodies.emplace_back(body), 100);
    CHECK(!engine->executor.stop(random.pick({0, 1})), "stop did not give up on a body that does not return");
    gate.open = true;
    while (!gate.left) sched_yield();
    while (engine->executor.in_flight() > 100 - count) sched_yield();
  }).join();
  progress.executor = nullptr;
}

// A lane's bound changes while its tasks run: nobody is left behind in its backlog.
inline void changing_limits(Random random) {
  Setup setup;
  setup.settings = random_settings(random);
  setup.settings.workers = random.pick({2, 4});
  setup.settings.max_inflight_tasks = 0;
  std::atomic<int64_t> count{0};
  Body body = counting_body(count);
  body.cost = 1 << 20;
  body.function = [](char**, const int64_t* params, const uint64_t*, int64_t*) {
    sched_yield();
    ++*reinterpret_cast<std::atomic<int64_t>*>(params[0]);
    return 0;
  };
  with_engine(setup, [&](Engine& engine) {
    int64_t expected = 0;
    for (int round = 0; round < 300; round++) {
      push_some(engine, body, 30);
      expected += 30;
      engine.executor.set_lane_limit(engine.devices[0], kCompute, random.pick({1, 2, 3, 1 << 30}));
      if (random.chance(30)) {
        engine.wait_all();
        expect_equal(count, expected, "tasks that ran");
      }
      progress.beats++;
    }
  });
}

// A lane's bound holds for the threads that help while they wait, too. One task waits until as many run at once as the
// bound allows, so that the lane is full for sure.
inline void full_lanes(Random random) {
  struct Lane {
    std::atomic<int> running{0}, most{0};
    int limit = 0;
  } lane;
  Body body;
  body.params = {reinterpret_cast<int64_t>(&lane)};
  body.function = [](char**, const int64_t* params, const uint64_t*, int64_t*) {
    auto& lane = *reinterpret_cast<Lane*>(params[0]);
    const int running = ++lane.running;
    int most = lane.most;
    while (running > most && !lane.most.compare_exchange_weak(most, running)) {}
    while (lane.most < lane.limit) sched_yield();
    sched_yield();  // the others get the chance to be one too many
    --lane.running;
    return 0;
  };
  Setup setup;
  setup.settings.workers = random.pick({1, 2, 4});
  setup.settings.max_inflight_tasks = 0;
  setup.lane_limit = lane.limit = setup.settings.workers;
  with_engine(setup, [&](Engine& engine) {
    for (int round = 0; round < 20; round++) {
      engine.executor.pause();
      push_some(engine, body, 200);
      in_threads(3, [&](int) { engine.wait_all(); });
      expect_equal(lane.most, lane.limit, "tasks of one lane at once");
    }
  });
}

// The serial engine's threads have run their tasks when they go on, whatever the lane's bound.
inline void serial_lanes(Random random) {
  Setup setup;
  setup.settings.serial = true;
  setup.settings.workers = 2;
  setup.lane_limit = random.pick({1, 2});
  std::atomic<int64_t> count{0};
  Body body = counting_body(count);
  body.function = [](char**, const int64_t* params, const uint64_t*, int64_t*) {
    sched_yield();
    ++*reinterpret_cast<std::atomic<int64_t>*>(params[0]);
    return 0;
  };
  with_engine(setup, [&](Engine& engine) {
    in_threads(4, [&](int) {
      for (int i = 0; i < 200; i++) {
        Call call;
        call.body = &body;
        TaskName name;
        {
          std::lock_guard<SpinLock> guard(engine.executor.record_lock());
          name = engine.executor.push(call);
        }
        engine.executor.run_owned(name);
        CHECK(engine.executor.is_done(name), "a task of the serial engine is not done when its thread goes on");
      }
    });
    expect_equal(count, 800, "tasks that ran");
  });
}

// Somebody looks on while it runs: the watchdog's view, statistics, and a trace switched on and off.
inline void watched(Random random) {
  Setup setup;
  setup.settings = random_settings(random);
  setup.lane_limit = random.pick({1, 1 << 30});
  setup.simulated = random.pick({0, 1});
  setup.seed = random.next();
  Shape shape;
  shape.devices = 1 + setup.simulated;
  shape.most_uses = 9;
  std::deque<Step> program = random_program(random, shape);
  std::atomic<bool> end{false};
  with_engine(setup, [&](Engine& engine) {
    std::thread onlooker([&] {
      while (!end) {
        for (const auto& task : engine.executor.unfinished(50)) CHECK(task.name.sequence, "a task without a number");
        {
          std::lock_guard<std::mutex> guard(engine.recording);
          engine.executor.stats();
          engine.executor.set_tracing(!engine.executor.tracing());
        }
        if (engine.streams) engine.streams->stats();
        engine.devices[0]->memory.stats();
        sched_yield();
      }
    });
    Machine machine(engine, shape);
    machine.buffers.resize(shape.buffers);
    for (Buffer*& buffer : machine.buffers) buffer = engine.new_buffer(0, shape.nbytes);
    Model model(shape.buffers, shape.nbytes);
    for (Step& step : program) {
      std::unique_lock<std::mutex> held(engine.recording);
      machine.record(step, held);
      held.unlock();
      model.run(step);
    }
    engine.wait_all();
    end = true;
    onlooker.join();
    engine.executor.take_trace_tasks();
    engine.executor.take_trace_events();
    machine.check(model);
    machine.drop();
  });
}
