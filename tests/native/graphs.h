// Prepared graphs and the waking of workers: each task runs once, after its predecessors, and no wake-up is lost.
#pragma once
#include <sched.h>

#include <deque>

#include "harness.h"

// A graph whose tasks mark, with plain stores, that they ran: a sanitizer sees an edge that orders nothing.
class Graph {
 public:
  Graph(uint32_t count, const std::function<void(uint32_t, std::vector<uint32_t>&)>& predecessors_of) : ran_(count) {
    first_.push_back(0);
    for (uint32_t i = 0; i < count; i++) {
      std::vector<uint32_t> before;
      predecessors_of(i, before);
      predecessors_.insert(predecessors_.end(), before.begin(), before.end());
      first_.push_back(static_cast<uint32_t>(predecessors_.size()));
      Body& body = bodies_.emplace_back();
      body.function = visit;
      body.params = {reinterpret_cast<int64_t>(this), static_cast<int64_t>(i)};
      body.cost = i % 3 ? 0 : 1 << 20;  // a waiting thread runs the cheap ones itself
      pointers_.push_back(&body);
    }
  }

  uint64_t push(Engine& engine, const int32_t* priorities = nullptr) {
    std::fill(ran_.begin(), ran_.end(), 0);
    finished_ = 0;
    Batch batch;
    batch.count = static_cast<uint32_t>(ran_.size());
    batch.bodies = pointers_.data();
    batch.first = first_.data();
    batch.predecessors = predecessors_.data();
    batch.priorities = priorities;
    std::lock_guard<SpinLock> guard(engine.executor.record_lock());
    return engine.executor.push_batch(batch);
  }

  void check() {
    expect_equal(finished_, static_cast<int64_t>(ran_.size()), "tasks of a graph that ran");
    for (size_t i = 0; i < ran_.size(); i++) CHECK(ran_[i] == 1, "task %zu of a graph ran %d times", i, ran_[i]);
  }

  // Without helping: only the workers can bring the graph to its end.
  void watch_end() {
    while (finished_.load() < static_cast<int64_t>(ran_.size())) sched_yield();
  }

 private:
  static int32_t visit(char**, const int64_t* params, const uint64_t*, int64_t*) {
    auto& graph = *reinterpret_cast<Graph*>(params[0]);
    const auto i = static_cast<uint32_t>(params[1]);
    for (uint32_t p = graph.first_[i]; p < graph.first_[i + 1]; p++) {
      CHECK(graph.ran_[graph.predecessors_[p]] == 1, "task %u of a graph ran before its predecessor %u", i,
            graph.predecessors_[p]);
    }
    graph.ran_[i]++;
    graph.finished_.fetch_add(1, std::memory_order_relaxed);
    return 0;
  }

  std::vector<int> ran_;
  std::atomic<int64_t> finished_{0};
  std::deque<Body> bodies_;
  std::vector<const Body*> pointers_;
  std::vector<uint32_t> first_, predecessors_;
};

inline void graphs(Random random) {
  const uint32_t kind = static_cast<uint32_t>(random.below(4));
  const uint32_t count = kind == 3 ? 3000 : 6000;
  Graph graph(count, [&](uint32_t i, std::vector<uint32_t>& before) {
    if (kind == 0 && i) {  // two random predecessors, perhaps the same
      before = {static_cast<uint32_t>(random.below(i)), static_cast<uint32_t>(random.below(i))};
    } else if (kind == 1 && i >= 3) {  // three chains
      before = {i - 3};
    } else if (kind == 2 && i) {  // one to many and many to one
      if (i % 1001 == 1000) for (uint32_t p = i - 1000; p < i; p++) before.push_back(p);
      else if (i > 1001) before = {i / 1001 * 1001 - 1};
    } else if (kind == 3) {  // up to twelve among the last forty: link blocks and slots reused within the batch
      for (int64_t n = i ? random.below(13) : 0; n > 0; n--)
        before.push_back(i - 1 - static_cast<uint32_t>(random.below(std::min<uint32_t>(i, 40))));
    }
  });
  std::vector<int32_t> priorities;
  for (uint32_t i = 0; i < count; i++) priorities.push_back(random.pick({0, 0, 0, 3}));
  Setup setup;
  setup.settings = random_settings(random);
  setup.lane_limit = random.pick({1, 2, 1 << 30, 1 << 30});
  with_engine(setup, [&](Engine& engine) {
    for (int round = 0; round < 4; round++) {
      graph.push(engine, round % 2 ? priorities.data() : nullptr);
      if (round == 3) graph.watch_end();
      engine.wait_all();
      graph.check();
    }
  });
}

// Many tiny bursts, each drained before the next, with workers that sleep at once. Nobody helps: a wake-up that is lost
// leaves the burst for ever.
inline void bursts(Random random) {
  Setup setup;
  setup.settings.workers = random.pick({1, 2, 3, 8});
  setup.settings.spin_microseconds = 0;
  setup.lane_limit = random.pick({1, 1 << 30});
  std::deque<Graph> graphs;
  for (int i = 0; i < 8; i++) {
    graphs.emplace_back(1 + random.below(7), [&](uint32_t task, std::vector<uint32_t>& before) {
      if (task && random.chance(50)) before = {static_cast<uint32_t>(random.below(task))};
    });
  }
  with_engine(setup, [&](Engine& engine) {
    const std::vector<int32_t> urgent(8, 1);
    for (int round = 0; round < 3000; round++) {
      Graph& graph = graphs[random.below(8)];
      graph.push(engine, random.chance(20) ? urgent.data() : nullptr);
      graph.watch_end();
      while (engine.executor.in_flight() > 0) sched_yield();
      graph.check();
      if (random.chance(20)) sched_yield();
      progress.beats++;
    }
  });
}

// As many tasks as workers, each waiting for all others: they end only if every worker is woken.
inline void barriers(Random random) {
  struct Barrier {
    int64_t wanted = 0;
    std::atomic<int64_t> arrived{0};
  } barrier;
  Body body, root;
  body.params = {reinterpret_cast<int64_t>(&barrier)};
  body.cost = 1 << 20;
  body.function = [](char**, const int64_t* params, const uint64_t*, int64_t*) {
    auto& barrier = *reinterpret_cast<Barrier*>(params[0]);
    barrier.arrived++;
    while (barrier.arrived < barrier.wanted) sched_yield();
    return 0;
  };
  Setup setup;
  setup.settings.workers = random.pick({2, 3, 4, 8});
  setup.settings.spin_microseconds = random.pick({0, 0, 40});
  with_engine(setup, [&](Engine& engine) {
    const auto workers = static_cast<uint32_t>(setup.settings.workers);
    for (int round = 0; round < 300; round++) {
      barrier.wanted = workers;
      barrier.arrived = 0;
      const bool rooted = random.chance(50);  // made ready by a worker, else by the recorder
      std::vector<const Body*> bodies(workers, &body);
      std::vector<uint32_t> first(workers + 1), predecessors;
      if (rooted) {
        bodies.insert(bodies.begin(), &root);
        first.push_back(0);
        for (uint32_t i = 0; i < workers; i++) {
          predecessors.push_back(0);
          first[i + 2] = i + 1;
        }
        first[0] = first[1] = 0;
      }
      Batch batch;
      batch.count = static_cast<uint32_t>(bodies.size());
      batch.bodies = bodies.data();
      batch.first = first.data();
      batch.predecessors = predecessors.data();
      {
        std::lock_guard<SpinLock> guard(engine.executor.record_lock());
        engine.executor.push_batch(batch);
      }
      if (random.chance(50)) engine.wait_all();
      while (engine.executor.in_flight() > 0) sched_yield();
      progress.beats++;
    }
  });
}

// A worker that was woken away from the recorder's core may run on every core again that the process allows: all of
// them, or one. Each push wakes one, since none spins.
inline void cores([[maybe_unused]] Random random) {
#ifdef __linux__
  struct Seen {
    cpu_set_t allowed;
    std::atomic<int> others{0};
  } seen;
  Body body;
  body.params = {reinterpret_cast<int64_t>(&seen)};
  body.cost = 1 << 20;  // not for a thread that waits
  body.function = [](char**, const int64_t* params, const uint64_t*, int64_t*) {
    auto& seen = *reinterpret_cast<Seen*>(params[0]);
    cpu_set_t own;
    if (sched_getaffinity(0, sizeof(own), &own) || !CPU_EQUAL(&own, &seen.allowed)) seen.others++;
    return 0;
  };
  Setup setup;
  setup.settings.workers = random.pick({1, 2, 3});
  setup.settings.spin_microseconds = 0;
  setup.settings.steer = random.chance(80);
  const bool one = random.chance(30);
  std::thread([&] {  // the engine's threads are allowed what the thread that starts it is allowed
    sched_getaffinity(0, sizeof(seen.allowed), &seen.allowed);
    if (one) {
      CPU_ZERO(&seen.allowed);
      CPU_SET(sched_getcpu(), &seen.allowed);
      sched_setaffinity(0, sizeof(seen.allowed), &seen.allowed);
    }
    with_engine(setup, [&](Engine& engine) {
      for (int round = 0; round < 500; round++) {
        Call call;
        call.body = &body;
        {
          std::lock_guard<SpinLock> guard(engine.executor.record_lock());
          engine.executor.push(call);
        }
        while (engine.executor.in_flight() > 0) sched_yield();
        progress.beats++;
      }
      CHECK(engine.executor.stats().wakeups > 0, "no worker fell asleep");
    });
  }).join();
  expect_equal(seen.others, 0, "tasks that were not allowed on all cores of the process");
#endif
}

// Waits of all kinds race with the tasks they wait for, and with pauses.
inline void waiters(Random random) {
  Setup setup;
  setup.settings = random_settings(random);
  setup.settings.max_inflight_tasks = 0;
  constexpr uint32_t kCount = 400;
  Graph graph(kCount, [&](uint32_t i, std::vector<uint32_t>& before) {
    if (i) before = {static_cast<uint32_t>(random.below(i))};
  });
  Body marked;  // a task with a name: pushed one by one
  marked.function = [](char**, const int64_t*, const uint64_t*, int64_t*) { return 0; };
  std::vector<uint64_t> seeds;
  for (int i = 0; i < 4; i++) seeds.push_back(random.next());
  with_engine(setup, [&](Engine& engine) {
    for (int round = 0; round < 20; round++) {
      const bool paused = random.chance(50);
      if (paused) engine.executor.pause();
      graph.push(engine);
      if (paused && random.chance(50)) {
        engine.executor.resume();
        graph.watch_end();
      }
      std::vector<TaskName> names;
      for (int i = 0; i < 60; i++) {
        Call call;
        call.body = &marked;
        std::lock_guard<SpinLock> guard(engine.executor.record_lock());
        names.push_back(engine.executor.push(call));
      }
      in_threads(4, [&](int thread) {
        Random own{seeds[thread] + static_cast<uint64_t>(round)};
        for (int i = 0; i < 30; i++) {
          const TaskName name = names[own.below(60)];
          engine.wait_task(name);
          CHECK(engine.executor.is_done(name), "a task that was waited for is not done");
        }
        if (own.chance(50)) {
          engine.wait_all();
          expect_equal(engine.executor.in_flight(), 0, "tasks in flight after wait_all");
        }
      });
      engine.wait_all();
      graph.check();
    }
  });
}
