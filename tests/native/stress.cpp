// Stress test of the native executor, for plain runs and for the sanitizers. Each scenario is random from its seed and
// ends in an exact comparison with a serial model.
//
//   stress [scenario] [seed] [rounds]      scenario: a name, or "all"; rounds: times each scenario's own measure
//
// Exit code: 0 all well, 1 a check failed, 2 unknown scenario, 3 a hang.
#include <cstring>
#include <string>

#include "gpus.h"
#include "graphs.h"
#include "life.h"
#include "lifetimes.h"
#include "programs.h"

namespace {

// ---- values: the same bytes and the same poison as the serial model

void run_program(const Setup& setup, const Shape& shape, Random& random, int lane_limit = 1 << 30) {
  LaneWatch watch;
  // What runs inline on the recording thread takes no lane, and a waiting thread helps beside all workers.
  if (!setup.settings.inline_bytes && lane_limit < setup.settings.workers) watch.limit = lane_limit;
  std::deque<Step> program = random_program(random, shape, &watch);
  with_engine(setup, [&](Engine& engine) {
    if (setup.python) use_python(engine);
    Machine machine(engine, shape);
    machine.buffers.resize(shape.buffers);
    for (Buffer*& buffer : machine.buffers) buffer = engine.new_buffer(0, shape.nbytes);
    Model model(shape.buffers, shape.nbytes);
    for (Step& step : program) {
      {
        std::unique_lock<std::mutex> held(engine.recording);
        machine.record(step, held);
      }
      model.run(step);
      const bool whole = step.body.piece + 1 == step.body.pieces;  // else part of a renewed buffer has no values yet
      if (whole && step.sequence > static_cast<uint64_t>(shape.buffers) && random.chance(2)) {
        const int number = static_cast<int>(random.below(shape.buffers));
        machine.wait(number);
        model.check(number, machine.buffers[number]);
      }
      if (random.chance(1)) engine.executor.pause();
    }
    engine.wait_all();
    machine.check(model);
    check_failures(engine, model.failures);
    machine.drop();
  });
  expect_equal(Object::alive, 0, "Python objects never given back");
}

void programs(Random random) {
  Setup setup;
  setup.settings = random_settings(random);
  setup.lane_limit = random.pick({1, 2, 1 << 30});
  Shape shape;
  shape.most_uses = random.pick({2, 4, 9});
  shape.priorities = random.chance(50);
  shape.lanes = random.chance(50);
  shape.pieces = true;
  shape.renewing = random.pick({5, 40});
  run_program(setup, shape, random, setup.lane_limit);
}

void failing(Random random) {
  Setup setup;
  setup.settings = random_settings(random);
  setup.lane_limit = random.pick({1, 1 << 30});
  Shape shape;
  shape.failing = 8;
  shape.renewing = random.pick({12, 50});
  shape.pieces = true;
  shape.empty = true;
  run_program(setup, shape, random);
}

void python(Random random) {
  Setup setup;
  setup.settings = random_settings(random);
  setup.python = true;
  Shape shape;
  shape.python = 30;
  shape.failing = 4;
  shape.priorities = true;
  run_program(setup, shape, random);
}

void simulated(Random random) {
  Setup setup;
  setup.settings = random_settings(random);
  setup.simulated = 2;
  setup.lane_limit = random.pick({1, 1 << 30});
  setup.python = random.chance(30);
  setup.seed = random.next();
  Shape shape;
  shape.devices = 3;
  shape.steps = 120;
  shape.lanes = true;
  shape.failing = random.pick({0, 5});
  shape.python = setup.python ? 10 : 0;
  shape.most_uses = random.pick({2, 5});
  shape.priorities = random.chance(30);
  run_program(setup, shape, random);
}

// ---- several threads record

// On the same buffers: the order in which they get `recording` is the program's order.
void shared(Random random, bool serial) {
  Setup setup;
  setup.settings = random_settings(random);
  setup.settings.serial = serial;
  setup.settings.max_inflight_tasks = random.pick({0, 8, 1 << 15});
  setup.python = random.chance(50);
  setup.simulated = serial ? 0 : random.pick({0, 1});
  setup.seed = random.next();
  constexpr int kThreads = 3;
  Shape shape;
  shape.devices = 1 + setup.simulated;
  shape.steps = 60;
  shape.failing = 3;
  shape.python = setup.python ? 15 : 0;
  std::vector<std::deque<Step>> programs;
  for (int i = 0; i < kThreads; i++) programs.push_back(random_program(random, shape));
  with_engine(setup, [&](Engine& engine) {
    if (setup.python) use_python(engine);
    Machine machine(engine, shape);
    machine.buffers.resize(shape.buffers);
    for (Buffer*& buffer : machine.buffers) buffer = engine.new_buffer(0, shape.nbytes);
    std::vector<Step*> order;
    in_threads(kThreads, [&](int thread) {
      for (Step& step : programs[thread]) {
        std::unique_lock<std::mutex> held(engine.recording);
        machine.record(step, held);
        if (step.sequence % 16 == 0) {
          held.unlock();
          engine.wait_all();
        }
      }
    });
    for (auto& program : programs) {
      for (Step& step : program) order.push_back(&step);
    }
    std::sort(order.begin(), order.end(), [](Step* a, Step* b) { return a->sequence < b->sequence; });
    Model model(shape.buffers, shape.nbytes);
    for (Step* step : order) model.run(*step);
    engine.wait_all();
    machine.check(model);
    check_failures(engine, model.failures);
    machine.drop();
  });
  expect_equal(Object::alive, 0, "Python objects never given back");
}

void recorders(Random random) { shared(random, false); }
void serial(Random random) { shared(random, true); }

// Each on buffers of its own, and all reading the first two: nothing orders them but the engine's own locks.
void apart(Random random) {
  Setup setup;
  setup.settings = random_settings(random);
  setup.settings.max_inflight_tasks = 0;
  setup.settings.max_inflight_bytes = 0;
  constexpr int kThreads = 4;
  Shape shape;
  shape.shared = 2;
  shape.steps = 80;
  with_engine(setup, [&](Engine& engine) {
    std::deque<Step> fills = random_program(random, {.buffers = 2, .steps = 0});
    Machine common(engine, shape);
    common.buffers = {engine.new_buffer(0, shape.nbytes), engine.new_buffer(0, shape.nbytes)};
    Model start(shape.buffers, shape.nbytes);
    std::unique_lock<std::mutex> held(engine.recording);
    for (Step& step : fills) {
      common.record(step, held);
      start.run(step);
    }
    held.unlock();
    std::vector<uint64_t> seeds;
    for (int i = 0; i < kThreads; i++) seeds.push_back(random.next());
    in_threads(kThreads, [&](int thread) {
      Random own{seeds[thread]};
      std::deque<Step> program = random_program(own, shape);
      Machine machine(engine, shape);
      machine.buffers = common.buffers;
      machine.bounded = false;
      while (machine.buffers.size() < static_cast<size_t>(shape.buffers))
        machine.buffers.push_back(engine.new_buffer(0, shape.nbytes));
      Model model = start;
      std::mutex mine;
      for (size_t i = shape.shared; i < program.size(); i++) {  // the first steps fill the shared buffers
        std::unique_lock<std::mutex> lock(mine);
        machine.record(program[i], lock);
        lock.unlock();
        model.run(program[i]);
        if (own.chance(2)) machine.wait(static_cast<int>(own.below(shape.buffers)));
      }
      for (int i = 0; i < shape.buffers; i++) {
        machine.wait(i);
        model.check(i, machine.buffers[i]);
        if (i >= shape.shared) engine.executor.drop_handle(machine.buffers[i]);
      }
      if (own.chance(50)) engine.wait_all();
      engine.wait_all();  // the program's bodies live until here
    });
    for (Buffer* buffer : common.buffers) engine.executor.drop_handle(buffer);
  });
}

// ---- regions against brute force

void regions(Random random) {
  constexpr int64_t kBytes = 64;
  for (int i = 0; i < 20000; i++) {
    const Region a = random_region(random, kBytes, true), b = random_region(random, kBytes, true);
    std::vector<bool> in_a(kBytes), in_b(kBytes);
    each_byte(a, [&](int64_t byte) { in_a[byte] = true; });
    each_byte(b, [&](int64_t byte) { in_b[byte] = true; });
    bool common = false, all = true;
    for (int64_t byte = 0; byte < kBytes; byte++) {
      common |= in_a[byte] && in_b[byte];
      all &= in_a[byte] || !in_b[byte];
    }
    const bool exact = !a.stride || !b.stride || a.stride == b.stride;
    CHECK(!common || overlaps(a, b), "overlapping regions are said to be disjoint");
    CHECK(common || !exact || !overlaps(a, b), "disjoint regions [%d %d) %d/%d and [%d %d) %d/%d are said to overlap",
          (int)a.lo, (int)a.hi, (int)a.width, (int)a.stride, (int)b.lo, (int)b.hi, (int)b.width, (int)b.stride);
    CHECK(all || !covers(a, b), "a region is said to cover another that it does not");
  }
}

struct Scenario {
  const char* name;
  void (*run)(Random);
  int rounds;
};

constexpr Scenario kScenarios[] = {
    {"regions", regions, 1}, {"programs", programs, 24}, {"failing", failing, 24}, {"python", python, 12},
    {"simulated", simulated, 16}, {"recorders", recorders, 12}, {"serial", serial, 8}, {"apart", apart, 10},
    {"graphs", graphs, 12}, {"bursts", bursts, 6}, {"barriers", barriers, 6}, {"cores", cores, 4}, {"waiters", waiters, 6},
    {"bounds", bounds, 8}, {"handles", handles, 8}, {"exports", exports, 12}, {"detaches", detaches, 4},
    {"memory", memory_limit, 4}, {"cycles", cycles, 4}, {"unfinished", unfinished_stop, 2},
    {"gpus", gpus, 16}, {"refused", refused_launches, 12}, {"tight", tight_memory, 6}, {"lost", lost_gpus, 16},
    {"limits", changing_limits, 6}, {"lanes", full_lanes, 6}, {"owned", serial_lanes, 4}, {"watched", watched, 6},
};

}  // namespace

int main(int argc, char** argv) {
  const std::string filter = argc > 1 ? argv[1] : "all";
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  const double measure = argc > 3 ? std::atof(argv[3]) : 1;
  bool found = false;
  Watchdog watchdog(60);
  for (const Scenario& scenario : kScenarios) {
    if (filter != "all" && filter != scenario.name) continue;
    found = true;
    const int64_t begin = Executor::now_ns();
    const int rounds = argc > 3 && filter != "all" ? static_cast<int>(measure)
                                                   : std::max(1, static_cast<int>(scenario.rounds * measure));
    std::printf("%-11s", scenario.name);
    std::fflush(stdout);
    progress.scenario = scenario.name;
    for (int round = 0; round < rounds; round++) {
      progress.seed = seed + static_cast<uint64_t>(round);
      progress.beats++;
      scenario.run(Random{progress.seed});
    }
    std::printf(" %5d rounds  %7.2f s\n", rounds, static_cast<double>(Executor::now_ns() - begin) / 1e9);
  }
  if (!found) {
    std::fprintf(stderr, "no scenario '%s'; there are:", filter.c_str());
    for (const Scenario& scenario : kScenarios) std::fprintf(stderr, " %s", scenario.name);
    std::fprintf(stderr, "\n");
    return 2;
  }
  std::puts("all well");
  return 0;
}
