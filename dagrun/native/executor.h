// The executor: makes edges from accesses, counts predecessors down, and runs ready tasks on worker threads without the GIL.
//
// Guarantees:
//   - Edges are made in one function (`order_access`), under the record lock, in program order.
//   - The record lock is never held while Python runs and its holder never blocks; so anybody may take it, GIL or not.
//   - A slot is reinitialised only under the record lock; (slot, sequence) therefore names a task for ever.
//   - Memory of a buffer goes back when neither a handle nor an unfinished task refers to it.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "allocator.h"
#include "cores.h"
#include "deque.h"
#include "spinlock.h"
#include "task.h"

namespace dagrun {

class Streams;

// An entry of a heap whose top is the most urgent task, the earliest in program order among equals.
struct Urgent {
  int32_t priority;
  uint64_t sequence;
  uint32_t slot;
  bool operator<(const Urgent& other) const {
    return priority != other.priority ? priority < other.priority : sequence > other.sequence;
  }
};

constexpr int kUnbounded = 1 << 30;

// How many tasks of one lane kind a device runs at once, on whatever threads: workers and those that help while they wait.
struct LaneBound {
  SpinLock lock;
  int limit = kUnbounded;
  std::atomic<bool> bounded{false};  // tasks are counted: there is a limit, or was one since the start
  int running = 0;
  std::vector<Urgent> backlog;  // a heap: ready, waiting for the lane
};

struct Device {
  uint16_t index = 0;
  std::string name;  // "cpu:0"
  uint8_t target = 0;  // which bodies of a signature it runs: 0 the CPU's, k + 1 those of GPU k
  Allocator memory;
  LaneBound lanes[kLanes];
  Streams* streams = nullptr;  // not owned; nullptr: bodies run on worker threads
};

struct TraceEvent {
  uint64_t sequence;
  int64_t begin_ns, end_ns;
  uint16_t worker;
  int32_t stream;  // -1: none
  bool failed;
};

struct TraceAccess {
  uint64_t buffer;
  Region region;
  bool write;
};

enum EdgeKind : uint8_t { kRAW, kWAR, kWAW };

struct TraceTask {
  uint64_t sequence;
  uint32_t name, shapes, site;
  uint16_t device;
  Lane lane;
  int32_t priority;
  int64_t recorded_ns;
  std::vector<TraceAccess> accesses;
  std::vector<std::pair<uint64_t, EdgeKind>> predecessors;
};

// Finished slots on their way back to the recorder: it takes them from here without a look at the slots, whose lines are
// in the cache of the worker that finished them, and asks for those some steps ahead.
struct FreeSlots {
  static constexpr uint32_t kMost = 64;
  FreeSlots* next = nullptr;
  uint32_t count = 0;
  uint32_t slots[kMost];
};

// A thread that runs tasks: a pool worker, the Python lane, a stream device's thread, or a user thread while it helps.
struct alignas(64) Worker {
  Deque deque;
  uint32_t next = 0;           // the successor to run at once
  std::unique_ptr<FreeSlots> free_slots;  // not yet handed back
  uint16_t index = 0;
  uint64_t random = 0;
  std::string name;
  bool in_use = false;
  // A pool worker asleep; under park_mutex_.
  pthread_t thread;            // set before it first sleeps
  std::condition_variable wake;
  bool woken = false;
  int core = -1;               // where it fell asleep
  KeptOff kept_off;            // from notify until it runs
  SpinLock events_lock;
  std::vector<TraceEvent> events;                 // of traced tasks, under events_lock
  alignas(64) std::atomic<uint64_t> done{0};      // tasks finished by this thread
  std::atomic<int64_t> pinned{0};                 // bytes that this thread's drops pinned, less what its finishes freed
};

struct Settings {
  int workers = 1;
  int64_t max_inflight_tasks = 1 << 15;  // 0: no bound
  int64_t max_inflight_bytes = 1 << 28;  // 0: no bound
  int64_t spin_microseconds = 40;        // how long an idle worker looks for work before it sleeps
  int64_t inline_bytes = 2048;           // ready tasks moving at most this much run where they are recorded
  uint64_t shuffle_seed = 0;             // not 0: ready tasks are taken in a seeded random order (tests)
  bool serial = false;                   // run each task on the recording thread before its push returns
  bool pin = false;                      // bind worker i to core i
  bool steer = true;                     // wake a worker on another core than that of the thread that wakes it
};

// One task to record.
struct Call {
  const Body* body = nullptr;
  const Operand* operands = nullptr;  // of the operation; body->operands[i].index points into it
  const uint64_t* scalars = nullptr;
  int scalar_count = 0;
  void* callable = nullptr;  // PyObject*, a new reference that the task takes over
  uint16_t device = 0;
  uint32_t site = 0;
};

// A prepared graph: task i runs bodies[i] after predecessors[first[i] .. first[i + 1]), all < i. Those are all the edges
// among its tasks; what operands say orders them with tasks recorded before and after the batch.
struct Batch {
  uint32_t count = 0;
  const Body* const* bodies = nullptr;
  const Call* calls = nullptr;  // operands and scalars of each task; nullptr: no body has any
  const uint32_t* first = nullptr;
  const uint32_t* predecessors = nullptr;
  const int32_t* priorities = nullptr;  // may be nullptr
  uint16_t device = 0;
  uint32_t site = 0;
};

struct TaskName {
  uint32_t slot = 0;
  uint64_t sequence = 0;
};

struct EngineStats {
  uint64_t recorded, finished, inlined;
  int64_t in_flight, pinned_bytes, slots, slot_bytes, failures;
  uint64_t admission_waits, wakeups;
};

class Executor {
 public:
  Executor();
  ~Executor();

  // ---- life
  void start(const Settings& settings);
  bool stop(int64_t timeout_ms);  // waits for what is in flight, then ends the threads; false: gave up waiting
  void abandon() { abandoned_ = true; }  // after fork: the threads are gone
  bool started() const { return started_; }
  const Settings& settings() const { return settings_; }
  Device* add_device(const std::string& name);
  Device* device(int index) { return devices_[index].get(); }
  int device_count() const { return device_count_.load(std::memory_order_acquire); }
  void set_lane_limit(Device* device, Lane lane, int limit);

  // ---- record (all under the record lock)
  SpinLock& record_lock() { return record_lock_; }
  Buffer* new_buffer(Device* device, int64_t nbytes);  // with one handle
  TaskName push(const Call& call);
  uint64_t push_batch(const Batch& batch);  // the sequence number of its first task
  TaskName pending_writer(Buffer* buffer, const Region& region) { return pending(buffer->writes, region); }
  TaskName pending(const std::vector<AccessRecord>& records, const Region& region);  // slot 0: none
  bool may_inline(const Call& call);
  void run_inline(const Call& call);  // after may_inline

  // ---- bounds
  bool over_bound(int64_t tasks, int64_t nbytes) {
    budget_tasks_ -= tasks;
    budget_bytes_ -= nbytes;
    return (budget_tasks_ < 0 || budget_bytes_ < 0) && !refill_budget(tasks, nbytes);
  }
  void wait_for_space(const std::function<bool()>& poll);

  // ---- buffers
  void add_handle(Buffer* buffer) { buffer->references.fetch_add(kHandle, std::memory_order_relaxed); }
  void drop_handle(Buffer* buffer);
  void drop_block(Block* block);
  bool is_used(const Buffer* buffer) { return buffer->references.load(std::memory_order_acquire) % kHandle; }  // by a task
  std::vector<Holding> largest(const Device* device, size_t most);  // arrays that hold its memory
  Block* export_block(Buffer* buffer);  // under the record lock, no pending writer
  bool ensure_memory(Buffer* buffer);     // false: there is none
  bool needs_detach(Buffer* buffer);
  void detach(Buffer* buffer);          // runs inside a task that has the whole buffer to itself
  // With locked false only one thread may be left (after a fork).
  std::shared_ptr<Failure> poison_of(Buffer* buffer, const Region& region, bool locked = true);

  // ---- wait
  bool is_done(TaskName name) {
    Task& task = slot(name.slot);
    // The list first: an open one of a later task in this slot, once seen, brings that task's number with it. Sequentially
    // consistent for a thread that has set `waited` and is about to sleep: `finish` closes the list, then looks at `waited`,
    // so at least one of the two sees the other.
    return task.done_head.load(std::memory_order_seq_cst) == kClosed ||
           task.sequence.load(std::memory_order_acquire) != name.sequence;
  }
  // poll runs about every 20 ms and when Python work is ready; it returns false to give up.
  bool wait_task(TaskName name, const std::function<bool()>& poll);
  bool wait_all(const std::function<bool()>& poll, int64_t timeout_ms = -1);
  bool wait_ready(TaskName name, const std::function<bool()>& poll);  // serial engine: predecessors of other threads
  void run_owned(TaskName name);                                      // serial engine: run it here
  int64_t in_flight();
  // Lanes take no further task until something waits (tests: lets the ready set grow). A worker that is about to take one
  // may still do so.
  void pause();
  void resume();

  // ---- python lane
  uint32_t take_python(bool wait);  // slot 0: none or busy; with wait: blocks until there is one or the engine stops
  void run_python(uint32_t slot);   // with the GIL
  void stop_python();               // a blocked take_python returns 0
  bool python_work() { return python_ready_.load(std::memory_order_seq_cst) > 0 && !python_busy_.load(); }
  // Called with the GIL: runs the callable on data; nonzero: the exception is in failure->exception.
  int (*python_body)(const Body* body, Arguments& arguments, char** data, Failure* failure) = nullptr;
  // Called without the GIL: gives a PyObject* back when the GIL is next held.
  void (*dispose)(void* object) = nullptr;

  // ---- failures
  std::vector<std::shared_ptr<Failure>> failures();
  void forget_failures();  // those that were delivered
  int64_t live_failures() const { return live_failures_; }

  // ---- for streams
  Worker* current_worker();
  // Resolves operands to addresses, allocating what has no memory yet; returns the bytes that were refused, or 0.
  int64_t resolve(const Body* body, const Operand* operands, char** data);
  void execute(uint32_t slot, char** data, int64_t refused_bytes, Worker* worker, int32_t stream);
  // Ends a task that a device ran on its own: failed by what poisoned its operands, else by `failure`. The times are for
  // the trace; a begin of 0 keeps it out of there.
  void conclude(uint32_t slot, std::shared_ptr<Failure> failure, Worker* worker, int32_t stream, int64_t begin_ns, int64_t end_ns);
  bool poisoned(uint32_t slot) { return find_poison(this->slot(slot).body, arguments(slot).operands) != nullptr; }
  void flush(Worker* worker) { flush_free(worker); }
  std::shared_ptr<Failure> fail(uint32_t slot, int32_t code, const int64_t* details);
  // The same for a task that stands for others: the one that failed had this body and line.
  std::shared_ptr<Failure> fail_as(const Body* body, uint32_t slot, uint32_t site, int32_t code, const int64_t* details);
  void walk_launched(uint32_t slot, Worker* worker);  // under the lock of its streams
  void finish(uint32_t slot, Worker* worker);
  void hand_over(Worker* worker);  // a thread that is about to do something else gives its next task to the others
  Task& slot(uint32_t index) { return chunks_[index >> kChunkBits][index & kChunkMask]; }
  Arguments& arguments(uint32_t index) { return argument_chunks_[index >> kChunkBits][index & kChunkMask]; }

  // ---- watching
  uint32_t intern(const std::string& text);
  std::string text(uint32_t id);
  void set_tracing(bool on);
  bool tracing() const { return tracing_; }
  std::vector<TraceTask> take_trace_tasks();
  std::vector<TraceEvent> take_trace_events();
  std::string worker_name(int index) { return workers_[index]->name; }
  EngineStats stats();
  struct Waiting {
    TaskName name;
    State state;
    uint32_t text, site, shapes;
    uint16_t device;
    std::vector<TaskName> predecessors;  // unfinished ones
  };
  std::vector<Waiting> unfinished(size_t most);  // for stories and the watchdog; takes the record lock
  static int64_t now_ns();
  std::atomic<bool> stopping{false};

 private:
  static constexpr int kChunkBits = 12;
  static constexpr uint32_t kChunkMask = (1u << kChunkBits) - 1;
  static constexpr uint32_t kMaxChunks = 1u << 14;
  static constexpr int32_t kRecording = 1 << 24;  // keeps a task from becoming ready while it is recorded

  // record
  uint32_t allocate_slot();
  Arguments& allocate_arguments(uint32_t index);
  void order_access(uint32_t index, uint64_t sequence, Buffer* buffer, const Region& region, uint8_t mode, int& edges,
                    TraceTask* trace);
  bool add_edge(uint32_t index, const AccessRecord& record, EdgeKind kind, int& edges, TraceTask* trace);
  bool link(uint32_t index, uint32_t predecessor, bool at_launch);
  void prune(Buffer* buffer);
  bool refill_budget(int64_t wanted_tasks, int64_t wanted_bytes);
  void fill_arguments(uint32_t index, const Call& call);
  void open_task(uint32_t index, uint64_t sequence, const Body* body, uint16_t device, uint32_t site, int32_t priority);
  void add_arguments(uint32_t index, const Call& call);
  void order_operands(uint32_t index, const Call& call, int& edges, TraceTask* trace);
  bool connect(uint32_t index, uint32_t predecessor);

  // run
  void make_ready(uint32_t index, Worker* worker);
  void walk(uint32_t links, Worker* worker, const Arguments* launched = nullptr);
  void run(uint32_t index, Worker* worker);
  uint32_t next_task(Worker* worker);
  uint32_t take(Worker* worker);
  bool work_available();
  void worker_main(Worker* worker, int core);
  enum class Help { kRan, kNothing, kTooLong };
  static constexpr int64_t kHelpBytes = 1 << 15;  // a waiting thread runs tasks up to this cost itself
  Help help(Worker* worker);
  bool acquire_lane(uint32_t index);
  void release_lane(Device* device, Lane lane, Worker* worker);
  uint32_t pop_backlog(LaneBound& bound);
  std::shared_ptr<Failure> find_poison(const Body* body, const Operand* operands);
  void settle(const Body* body, const Operand* operands, const std::shared_ptr<Failure>& failure);
  std::shared_ptr<Failure> make_failure(const Body* body, uint64_t sequence, uint32_t site, uint16_t device,
                                        int32_t code, const int64_t* details, void* exception);
  void settle_and_finish(uint32_t index, std::shared_ptr<Failure> failure, Worker* worker, int32_t stream,
                         int64_t begin_ns, int64_t end_ns = 0);
  void drop_task_reference(Buffer* buffer, Worker* worker);
  void free_buffer(Buffer* buffer);
  void free_slot(uint32_t index, Worker* worker);
  void flush_free(Worker* worker);
  bool take_over(uint32_t index);
  bool can_take_over(const Body* body, const Operand* operands, uint64_t first, const OperandSpec& spec);
  void notify();
  void wake_waiters();
  uint64_t done_sum();
  int64_t pinned_sum();
  void move(Task& task, State to);

  Settings settings_;
  bool started_ = false;
  bool abandoned_ = false;
  std::vector<std::unique_ptr<Device>> devices_;
  std::atomic<int> device_count_{0};

  // record lock: everything here
  SpinLock record_lock_;
  uint64_t next_sequence_ = 1;
  FreeSlots* free_chain_ = nullptr;  // owned, as is free_slots_
  uint32_t slots_used_ = 1;  // slot 0 means "none"
  Buffer* buffer_chain_ = nullptr;
  uint64_t next_buffer_id_ = 1;
  static constexpr int kBufferChunk = 256;
  std::vector<std::unique_ptr<Buffer[]>> buffer_chunks_;
  uint64_t batch_base_ = UINT64_MAX;  // while a batch is recorded: its first task. Accesses make no edges within it
  std::vector<uint64_t> recent_;  // predecessors of the task being recorded, to link each once
  std::unique_ptr<Task[]> chunks_[kMaxChunks];
  std::unique_ptr<Arguments[]> argument_chunks_[kMaxChunks];
  Deque injected_;  // pushed under the record lock, stolen by everybody: program order
  std::atomic<bool> tracing_{false};  // set under the record lock
  std::vector<TraceTask> trace_tasks_;
  uint64_t inlined_ = 0;
  std::vector<uint32_t> batch_slots_;

  // budget: the recording thread (with the GIL)
  int64_t budget_tasks_ = 0, budget_bytes_ = 0;

  std::atomic<uint64_t> pushed_{0};
  std::atomic<FreeSlots*> free_slots_{nullptr};  // chain of finished slots
  std::atomic<uint64_t> free_buffers_{0};      // chain of dead buffers (Buffer*)

  // workers
  static constexpr int kMaxWorkers = 8192;
  std::unique_ptr<Worker> workers_[kMaxWorkers];
  std::atomic<int> worker_count_{0};
  std::mutex registry_mutex_;
  std::vector<std::thread> threads_;
  std::mutex park_mutex_;
  std::vector<Worker*> parked_;  // under park_mutex_; the last to fall asleep is the first to be woken
  std::atomic<int> sleepers_{0}, spinners_{0};
  std::atomic<bool> end_workers_{false}, paused_{false};
  std::atomic<uint64_t> wakeups_{0}, admission_waits_{0};

  // Tasks with a priority and long ones: most urgent first, then program order. Short ones go through the deques.
  static constexpr int64_t kOrderedBytes = 1 << 16;
  void push_ordered(const Urgent& entry);
  uint32_t pop_ordered(const Urgent& unless_before);
  SpinLock ordered_lock_;
  std::vector<Urgent> ordered_;
  std::atomic<int> ordered_count_{0};

  // shuffled order (tests)
  SpinLock shuffle_lock_;
  std::vector<uint32_t> shuffled_;
  std::atomic<int> shuffled_count_{0};
  uint64_t shuffle_random_ = 0;

  // python lane
  std::mutex python_mutex_;
  std::condition_variable python_cv_;
  std::vector<Urgent> python_queue_;
  std::atomic<int> python_ready_{0};
  std::atomic<bool> python_busy_{false};

  // waiting
  std::mutex wait_mutex_;
  std::condition_variable wait_cv_;
  std::atomic<int> waiting_{0};   // threads asleep in wait_cv_
  std::atomic<int> watchers_{0};  // of them, those that wait for counts, not for one task
  std::atomic<int64_t> watch_target_{0};

  // failures
  std::mutex failure_mutex_;
  std::atomic<int64_t> live_failures_{0};
  std::vector<std::shared_ptr<Failure>> failures_;

  // interned texts
  std::mutex text_mutex_;
  std::unordered_map<std::string, uint32_t> text_ids_;
  std::vector<std::string> texts_;
};

}  // namespace dagrun
