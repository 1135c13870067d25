#include "executor.h"

#include <pthread.h>

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "streams.h"

namespace dagrun {

namespace {

thread_local Worker* this_worker = nullptr;

// Hands the thread's Worker back when the thread ends, so that many short-lived user threads share few.
struct WorkerLease {
  Worker* worker = nullptr;
  std::mutex* registry = nullptr;
  ~WorkerLease() {
    if (!worker) return;
    std::lock_guard<std::mutex> guard(*registry);
    worker->in_use = false;
  }
};
thread_local WorkerLease lease;

char no_memory[64];  // where empty operands point

bool allowed(State from, State to) {
  switch (from) {
    case State::kFree: return to == State::kPending;
    case State::kPending: return to == State::kReady;
    case State::kReady: return to == State::kRunning;
    case State::kRunning: return to == State::kLaunched || to == State::kDone;
    case State::kLaunched: return to == State::kDone;
    case State::kDone: return to == State::kFree;
  }
  return false;
}

uint64_t next_random(uint64_t& state) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

Region region_of(const OperandSpec& spec, const Operand* operands) {
  const Operand& operand = operands[spec.index];
  return region_in(operand.buffer, shifted(spec.region, operand.offset));
}

}  // namespace

int64_t Executor::now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// ---------------------------------------------------------------------------------------------------- life

Executor::Executor() { intern(""); }

Executor::~Executor() {
  if (!abandoned_) stop(0);
  for (FreeSlots* chain : {free_chain_, free_slots_.load()}) {
    while (chain) delete std::exchange(chain, chain->next);
  }
}

Device* Executor::add_device(const std::string& name) {
  std::lock_guard<std::mutex> guard(registry_mutex_);
  auto device = std::make_unique<Device>();
  device->index = static_cast<uint16_t>(devices_.size());
  device->name = name;
  if (devices_.capacity() == 0) devices_.reserve(4096);  // never moved: workers index it
  devices_.push_back(std::move(device));
  device_count_.store(static_cast<int>(devices_.size()), std::memory_order_release);
  return devices_.back().get();
}

void Executor::set_lane_limit(Device* device, Lane lane, int limit) {
  LaneBound& bound = device->lanes[lane];
  std::vector<uint32_t> admitted;
  {
    std::lock_guard<SpinLock> guard(bound.lock);
    bound.limit = limit;
    if (limit < kUnbounded) bound.bounded = true;  // until the next start: what was counted must be counted down
    for (; bound.running < limit && !bound.backlog.empty(); bound.running++) admitted.push_back(pop_backlog(bound));
  }
  for (uint32_t index : admitted) {
    current_worker()->deque.push(index);
    notify();
  }
}

void Executor::start(const Settings& settings) {
  settings_ = settings;
  end_workers_ = false;
  stopping = false;
  shuffle_random_ = settings.shuffle_seed * 0x9E3779B97F4A7C15ULL + 1;
  for (int i = 0; i < device_count(); i++) {
    for (LaneBound& bound : device(i)->lanes) bound.bounded = bound.limit < kUnbounded;
  }
  for (int i = 0; i < settings.workers; i++) {
    std::lock_guard<std::mutex> guard(registry_mutex_);
    Worker* worker = nullptr;
    for (int j = 0; j < worker_count_; j++) {
      if (workers_[j]->name == "worker " + std::to_string(i)) worker = workers_[j].get();
    }
    if (!worker) {
      auto made = std::make_unique<Worker>();
      made->index = static_cast<uint16_t>(worker_count_.load());
      made->name = "worker " + std::to_string(i);
      made->random = 0x9E3779B97F4A7C15ULL * (i + 1);
      workers_[made->index] = std::move(made);
      worker = workers_[worker_count_.load()].get();
      worker_count_++;
    }
    worker->in_use = true;
    const int core = settings.pin ? i % static_cast<int>(std::max(1u, std::thread::hardware_concurrency())) : -1;
    threads_.emplace_back([this, worker, core] { worker_main(worker, core); });
  }
  budget_tasks_ = budget_bytes_ = 0;
  started_ = true;
}

bool Executor::stop(int64_t timeout_ms) {
  if (!started_ || abandoned_) return true;
  const bool finished = timeout_ms > 0 ? wait_all([] { return true; }, timeout_ms) : in_flight() == 0;
  {
    std::lock_guard<std::mutex> guard(park_mutex_);
    end_workers_ = true;
    for (Worker* worker : parked_) worker->wake.notify_one();
  }
  if (finished) {
    for (auto& thread : threads_) thread.join();
  } else {
    for (auto& thread : threads_) thread.detach();  // one may be inside a body that does not return
  }
  threads_.clear();
  if (finished) {
    sleepers_ = spinners_ = 0;
  }
  started_ = false;
  return finished;
}

Worker* Executor::current_worker() {
  if (this_worker) return this_worker;
  std::lock_guard<std::mutex> guard(registry_mutex_);
  for (int i = 0; i < worker_count_; i++) {
    Worker* worker = workers_[i].get();
    if (!worker->in_use && worker->name.compare(0, 6, "worker") != 0) {
      worker->in_use = true;
      lease.worker = this_worker = worker;
      lease.registry = &registry_mutex_;
      return worker;
    }
  }
  const int index = worker_count_;
  if (index >= kMaxWorkers) {
    std::fprintf(stderr, "dagrun: more than %d threads use the engine at once\n", kMaxWorkers);
    std::abort();
  }
  auto worker = std::make_unique<Worker>();
  worker->index = static_cast<uint16_t>(index);
  worker->name = index == 0 ? "main" : "thread " + std::to_string(index);
  worker->random = 0x9E3779B97F4A7C15ULL * (index + 1);
  worker->in_use = true;
  lease.worker = this_worker = worker.get();
  lease.registry = &registry_mutex_;
  workers_[index] = std::move(worker);
  worker_count_.store(index + 1, std::memory_order_release);
  return this_worker;
}

void Executor::move(Task& task, State to) {
  assert(allowed(task.state.load(std::memory_order_relaxed), to));
  task.state.store(to, std::memory_order_release);  // wait_ready hands the task to another thread by it
}

// ---------------------------------------------------------------------------------------------------- record

uint32_t Executor::allocate_slot() {
  constexpr uint32_t kAhead = 8;
  if (!free_chain_) {
    free_chain_ = free_slots_.exchange(nullptr, std::memory_order_acquire);
    if (!free_chain_) {
      const uint32_t index = slots_used_++;
      const uint32_t chunk = index >> kChunkBits;
      if (!chunks_[chunk]) chunks_[chunk] = std::make_unique<Task[]>(1u << kChunkBits);
      return index;
    }
  }
  FreeSlots* const free = free_chain_;
  const uint32_t index = free->slots[--free->count];
  if (free->count >= kAhead) __builtin_prefetch(&slot(free->slots[free->count - kAhead]), 1);
  if (free->count == 0) {
    free_chain_ = free->next;
    delete free;
  }
  return index;
}

Arguments& Executor::allocate_arguments(uint32_t index) {
  auto& chunk = argument_chunks_[index >> kChunkBits];
  if (!chunk) chunk = std::make_unique<Arguments[]>(1u << kChunkBits);
  return chunk[index & kChunkMask];
}

Buffer* Executor::new_buffer(Device* device, int64_t nbytes) {
  if (!buffer_chain_) {
    buffer_chain_ = reinterpret_cast<Buffer*>(free_buffers_.exchange(0, std::memory_order_acquire));
    if (!buffer_chain_) {
      buffer_chunks_.push_back(std::make_unique<Buffer[]>(kBufferChunk));
      Buffer* chunk = buffer_chunks_.back().get();
      for (int i = 0; i < kBufferChunk; i++) {
        chunk[i].next_free = buffer_chain_;
        buffer_chain_ = &chunk[i];
      }
    }
  }
  Buffer* buffer = buffer_chain_;
  buffer_chain_ = buffer->next_free;
  buffer->writes.clear();
  buffer->reads.clear();
  buffer->prune_at = 32;
  buffer->data.store(nullptr, std::memory_order_relaxed);
  buffer->nbytes = nbytes;
  buffer->device = device;
  buffer->block.store(nullptr, std::memory_order_relaxed);
  buffer->detach_failed = false;
  buffer->graphs = 0;
  buffer->donated = false;
  buffer->id = next_buffer_id_++;
  buffer->version = 0;
  buffer->last_writer = 0;
  buffer->references.store(kHandle, std::memory_order_relaxed);
  return buffer;
}

// Puts link `index` into the successor list of `predecessor`; false: that list is closed, the edge is satisfied.
bool Executor::link(uint32_t index, uint32_t predecessor, bool at_launch) {
  Task& task = slot(index);
  uint32_t holder = index;
  int k = task.links;
  if (k >= kLinks) {
    holder = task.link_blocks;
    k = holder ? slot(holder).links : kLinks;
    if (k >= kLinks) {
      holder = allocate_slot();
      Task& block = slot(holder);
      block.flags = kLinkBlock;
      block.site = index;
      block.links = 0;
      block.link_blocks = task.link_blocks;
      block.sequence.store(0, std::memory_order_relaxed);
      task.link_blocks = holder;
      k = 0;
    }
  }
  Task& from = slot(predecessor);
  std::atomic<uint32_t>& head = at_launch ? from.launch_head : from.done_head;
  const uint32_t entry = holder << 4 | k;
  uint32_t seen = head.load(std::memory_order_acquire);
  do {
    if (seen == kClosed) return false;
    slot(holder).next[k].store(seen, std::memory_order_relaxed);
  } while (!head.compare_exchange_weak(seen, entry, std::memory_order_acq_rel, std::memory_order_acquire));
  slot(holder).links++;
  return true;
}

bool Executor::add_edge(uint32_t index, const AccessRecord& record, EdgeKind kind, int& edges, TraceTask* trace) {
  if (record.sequence == slot(index).sequence.load(std::memory_order_relaxed)) return false;  // its own earlier operand
  if (record.sequence >= batch_base_) return false;
  for (uint64_t sequence : recent_) {
    if (sequence == record.sequence) return false;
  }
  recent_.push_back(record.sequence);
  if (trace) trace->predecessors.emplace_back(record.sequence, kind);
  if (slot(record.task).sequence.load(std::memory_order_acquire) != record.sequence) return false;  // done, its slot reused
  if (connect(index, record.task)) edges++;
  return true;
}

// Makes a task come after another that is in its slot still; false: the edge is satisfied.
bool Executor::connect(uint32_t index, uint32_t predecessor) {
  Task& task = slot(index);
  Task& from = slot(predecessor);
  Streams* streams = devices_[task.device]->streams;
  // What one copy brings to the CPU's memory another may take from there only when it is done: streams do not order that.
  if ((task.flags & kStreamed) && (from.flags & kStreamed) && devices_[from.device]->streams == streams &&
      !(task.flags & from.flags & kCrosses)) {
    if (link(index, predecessor, true)) return true;
    if (from.done_head.load(std::memory_order_acquire) != kClosed) {
      const Arguments& launched = arguments(predecessor);  // and not done
      streams->note_wait(arguments(index).stream, launched.stream_index, launched.position);
    }
    return false;
  }
  return link(index, predecessor, false);
}

// Finished accesses order nothing any more. A trace keeps the writes: its edges tell where values came from.
void Executor::prune(Buffer* buffer) {
  auto drop_finished = [this](std::vector<AccessRecord>& records) {
    auto finished = [this](const AccessRecord& r) { return is_done({r.task, r.sequence}); };
    records.erase(std::remove_if(records.begin(), records.end(), finished), records.end());
  };
  drop_finished(buffer->reads);
  if (!tracing_) drop_finished(buffer->writes);
  buffer->prune_at = std::max<size_t>(32, (buffer->reads.size() + buffer->writes.size()) * 2);
}

// The one place where edges are made: in program order, from what earlier tasks do to the same bytes.
void Executor::order_access(uint32_t index, uint64_t sequence, Buffer* buffer, const Region& region, uint8_t mode,
                            int& edges, TraceTask* trace) {
  if (trace) trace->accesses.push_back({buffer->id, region, (mode & kWrite) != 0});
  if (region.lo >= region.hi) return;
  if (buffer->reads.size() + buffer->writes.size() >= buffer->prune_at) prune(buffer);
  if (!(mode & kWrite)) {
    for (const AccessRecord& write : buffer->writes) {
      if (overlaps(write.region, region)) add_edge(index, write, kRAW, edges, trace);  // read what it wrote
    }
    buffer->reads.push_back({region, sequence, index});
    return;
  }
  auto order_after = [&](std::vector<AccessRecord>& earlier, EdgeKind kind) {
    size_t kept = 0;
    for (size_t i = 0; i < earlier.size(); i++) {
      if (overlaps(earlier[i].region, region)) {
        add_edge(index, earlier[i], kind, edges, trace);
        if (covers(region, earlier[i].region)) continue;  // whoever comes later is ordered behind this write
      }
      if (kept != i) earlier[kept] = earlier[i];
      kept++;
    }
    earlier.resize(kept);
  };
  order_after(buffer->reads, kWAR);   // overwrite only what has been read
  order_after(buffer->writes, kWAW);  // the later write is the one that stays
  buffer->writes.push_back({region, sequence, index});
}

void Executor::fill_arguments(uint32_t index, const Call& call) {
  Arguments& a = allocate_arguments(index);
  uint32_t operand_count = 0;
  for (const OperandSpec& spec : call.body->operands) operand_count = std::max<uint32_t>(operand_count, spec.index + 1u);
  a.operand_count = operand_count;
  a.scalar_count = static_cast<uint32_t>(call.scalar_count);
  a.operands = operand_count <= kInlineOperands ? a.inline_operands : new Operand[operand_count];
  a.scalars = call.scalar_count <= kInlineScalars ? a.inline_scalars : new uint64_t[call.scalar_count];
  std::copy(call.operands, call.operands + operand_count, a.operands);
  std::copy(call.scalars, call.scalars + call.scalar_count, a.scalars);
  a.callable = call.callable;
  a.stream = nullptr;
}

inline void Executor::open_task(uint32_t index, uint64_t sequence, const Body* body, uint16_t device, uint32_t site,
                         int32_t priority) {
  Task& task = slot(index);
  task.links = 0;
  task.link_blocks = 0;
  task.lane = body->lane;
  task.flags = 0;
  task.device = device;
  task.body = body;
  task.site = site;
  task.priority = priority;
  task.holds_lane = false;
  task.waited.store(0, std::memory_order_relaxed);
  task.pending.store(kRecording, std::memory_order_relaxed);
  task.state.store(State::kPending, std::memory_order_relaxed);
  task.launch_head.store(0, std::memory_order_relaxed);
  task.sequence.store(sequence, std::memory_order_release);
  task.done_head.store(0, std::memory_order_release);
}

// Arguments, and whether the task runs on a stream.
void Executor::add_arguments(uint32_t index, const Call& call) {
  Task& task = slot(index);
  const Body* body = call.body;
  const Device& device = *devices_[call.device];
  task.flags |= kHasArguments;
  fill_arguments(index, call);
  // A detach moves a buffer: what is enqueued behind it on a stream would have the old address already.
  if (!device.streams || body->lane == kPython || body->detaches || settings_.serial) return;
  task.flags |= kStreamed;
  arguments(index).stream = new StreamInfo();
  if (!device.memory.source) return;
  if (body->kernel && body->kernel->kind == Kernel::kGraph) task.flags |= kCrosses;
  for (const OperandSpec& spec : body->operands) {
    if (!call.operands[spec.index].buffer->device->memory.source) task.flags |= kCrosses;
  }
}

void Executor::order_operands(uint32_t index, const Call& call, int& edges, TraceTask* trace) {
  const uint64_t sequence = slot(index).sequence.load(std::memory_order_relaxed);
  recent_.clear();
  for (const OperandSpec& spec : call.body->operands) {
    Buffer* buffer = call.operands[spec.index].buffer;
    buffer->references.fetch_add(1, std::memory_order_relaxed);
    order_access(index, sequence, buffer, region_of(spec, call.operands), spec.mode, edges, trace);
    if (spec.mode & kWrite) {
      if (buffer->version++ == 0) buffer->first_writer = sequence;
      buffer->last_writer = sequence;
      buffer->writer_name = call.body->name;
      buffer->writer_site = call.site;
    }
  }
}

TaskName Executor::push(const Call& call) {
  const Body* body = call.body;
  const uint32_t index = allocate_slot();
  const uint64_t sequence = next_sequence_++;
  Task& task = slot(index);
  open_task(index, sequence, body, call.device, call.site, body->priority);
  if (settings_.serial) task.flags = kOwned;
  TraceTask* trace = nullptr;
  if (tracing_) {
    trace_tasks_.push_back({sequence, body->name, body->shapes, call.site, call.device, body->lane, body->priority,
                            now_ns(), {}, {}});
    trace = &trace_tasks_.back();
  }
  int edges = 0;
  if (!body->operands.empty() || call.callable || call.scalar_count) {
    add_arguments(index, call);
    order_operands(index, call, edges, trace);
  }
  pushed_.fetch_add(1, std::memory_order_relaxed);
  if (task.pending.fetch_sub(kRecording - edges, std::memory_order_acq_rel) == kRecording - edges)
    make_ready(index, nullptr);
  return {index, sequence};
}

uint64_t Executor::push_batch(const Batch& batch) {
  std::vector<uint32_t>& slots = batch_slots_;
  slots.resize(batch.count);
  const uint64_t base = next_sequence_;
  next_sequence_ += batch.count;
  pushed_.fetch_add(batch.count, std::memory_order_relaxed);
  batch_base_ = base;
  const bool streamed = devices_[batch.device]->streams && !settings_.serial;
  const bool plain = !streamed && !batch.calls;  // functions on CPU lanes: the order is all there is
  // Predecessors lie anywhere, in lines that the workers write: ask for them some tasks ahead.
  constexpr uint32_t kFar = 24, kNear = 10;
  for (uint32_t i = 0; i < batch.count; i++) {
    if (i + kFar < batch.count) {
      for (uint32_t p = batch.first[i + kFar]; p < batch.first[i + kFar + 1]; p++)
        __builtin_prefetch(&slots[batch.predecessors[p]]);
      for (uint32_t p = batch.first[i + kNear]; p < batch.first[i + kNear + 1]; p++) {
        if (batch.predecessors[p] < i) __builtin_prefetch(&slot(slots[batch.predecessors[p]]));
      }
    }
    const uint32_t index = slots[i] = allocate_slot();
    Task& task = slot(index);
    const Body* body = batch.bodies[i];
    open_task(index, base + i, body, batch.device, batch.site, batch.priorities ? batch.priorities[i] : 0);
    TraceTask* trace = nullptr;
    if (tracing_) {
      trace_tasks_.push_back({base + i, body->name, body->shapes, batch.site, batch.device, task.lane, task.priority,
                              now_ns(), {}, {}});
      trace = &trace_tasks_.back();
    }
    Call call;
    if (!plain) {
      call.body = body;
      call.device = batch.device;
      if (batch.calls) call = batch.calls[i];
      if (streamed || !body->operands.empty() || call.scalar_count) add_arguments(index, call);
    }
    int edges = 0;
    for (uint32_t p = batch.first[i]; p < batch.first[i + 1]; p++) {
      const uint32_t predecessor = batch.predecessors[p];
      if (trace) trace->predecessors.emplace_back(base + predecessor, kRAW);
      // A finished predecessor's slot may serve a later task of this batch by now: its sequence number tells.
      if (slot(slots[predecessor]).sequence.load(std::memory_order_acquire) == base + predecessor &&
          (plain ? link(index, slots[predecessor], false) : connect(index, slots[predecessor])))
        edges++;
    }
    if (!plain && !body->operands.empty()) order_operands(index, call, edges, trace);
    if (task.pending.fetch_sub(kRecording - edges, std::memory_order_acq_rel) == kRecording - edges)
      make_ready(index, nullptr);
  }
  batch_base_ = UINT64_MAX;
  return base;
}

TaskName Executor::pending(const std::vector<AccessRecord>& records, const Region& region) {
  for (const AccessRecord& record : records) {
    if (overlaps(record.region, region) && !is_done({record.task, record.sequence})) return {record.task, record.sequence};
  }
  return {};
}

// A tiny task with nothing to wait for is not worth a lane: handing it over costs more than running it.
bool Executor::may_inline(const Call& call) {
  if (call.body->cost > settings_.inline_bytes || !call.body->function || settings_.shuffle_seed || tracing_ ||
      settings_.serial || devices_[call.device]->streams || call.body->lane != kCompute)
    return false;
  for (const OperandSpec& spec : call.body->operands) {
    Buffer* buffer = call.operands[spec.index].buffer;
    if (buffer->writes.empty() && buffer->reads.empty()) continue;
    const Region region = region_of(spec, call.operands);
    if (pending(buffer->writes, region).slot || ((spec.mode & kWrite) && pending(buffer->reads, region).slot)) return false;
  }
  return true;
}

void Executor::run_inline(const Call& call) {
  const Body* body = call.body;
  const uint64_t sequence = next_sequence_++;
  char* data[16];
  std::vector<char*> many;
  char** pointers = data;
  if (body->operands.size() > 16) {
    many.resize(body->operands.size());
    pointers = many.data();
  }
  std::shared_ptr<Failure> failure = find_poison(body, call.operands);
  if (!failure) {
    int64_t details[4] = {};
    int32_t code = 0;
    if (const int64_t refused = resolve(body, call.operands, pointers)) {
      code = kOutOfMemory;
      details[0] = refused;
    } else {
      code = body->function(pointers, body->params.data(), call.scalars, details);
    }
    if (code) failure = make_failure(body, sequence, call.site, call.device, code, details, nullptr);
  }
  settle(body, call.operands, failure);
  for (const OperandSpec& spec : body->operands) {
    if (!(spec.mode & kWrite)) continue;
    Buffer* buffer = call.operands[spec.index].buffer;
    if (buffer->version++ == 0) buffer->first_writer = sequence;
    buffer->last_writer = sequence;
    buffer->writer_name = body->name;
    buffer->writer_site = call.site;
  }
  inlined_++;
}

// ---------------------------------------------------------------------------------------------------- bounds

uint64_t Executor::done_sum() {
  uint64_t sum = 0;
  const int count = worker_count_.load(std::memory_order_acquire);
  for (int i = 0; i < count; i++) sum += workers_[i]->done.load(std::memory_order_seq_cst);
  return sum;
}

int64_t Executor::pinned_sum() {
  int64_t sum = 0;
  const int count = worker_count_.load(std::memory_order_acquire);
  for (int i = 0; i < count; i++) sum += workers_[i]->pinned.load(std::memory_order_relaxed);
  return sum;
}

int64_t Executor::in_flight() {
  const uint64_t done = done_sum();  // before pushed_: the difference is never negative for a lone reader
  return static_cast<int64_t>(pushed_.load(std::memory_order_seq_cst) - done);
}

// The budget is what may be recorded before the counters, which the workers' caches hold, are read again.
bool Executor::refill_budget(int64_t wanted_tasks, int64_t wanted_bytes) {
  const int64_t tasks = settings_.max_inflight_tasks ? settings_.max_inflight_tasks - in_flight() : 1 << 20;
  const int64_t bytes = settings_.max_inflight_bytes ? settings_.max_inflight_bytes - pinned_sum() : 1LL << 50;
  if (tasks <= 0 || bytes <= 0) return false;
  budget_tasks_ = tasks - wanted_tasks;  // the one that asks is admitted, however large
  budget_bytes_ = bytes - wanted_bytes;
  return true;
}

void Executor::wait_for_space(const std::function<bool()>& poll) {
  admission_waits_++;
  resume();
  Worker* self = current_worker();
  int idle = 0;
  for (;;) {
    const int64_t flying = in_flight();
    const bool few = !settings_.max_inflight_tasks || flying <= settings_.max_inflight_tasks * 3 / 4;
    const bool light = !settings_.max_inflight_bytes || pinned_sum() <= settings_.max_inflight_bytes * 3 / 4;
    if ((few && light) || flying == 0) break;
    if (python_work()) {
      if (!poll()) break;
      continue;
    }
    if (idle == 0 && help(self) == Help::kRan) continue;
    if (++idle < 200) {
      relax();
      continue;
    }
    idle = 0;
    std::unique_lock<std::mutex> lock(wait_mutex_);
    waiting_++;
    watch_target_ = settings_.max_inflight_tasks * 3 / 4;
    watchers_++;
    wait_cv_.wait_for(lock, std::chrono::milliseconds(1));
    watchers_--;
    waiting_--;
    lock.unlock();
    if (!poll()) break;
  }
}

// ---------------------------------------------------------------------------------------------------- buffers

void Executor::drop_handle(Buffer* buffer) {
  if (abandoned_) return;  // after fork: a lock may be held for ever
  const int64_t nbytes = buffer->nbytes;  // not to be read once the reference is gone
  const uint64_t left = buffer->references.fetch_sub(kHandle, std::memory_order_acq_rel) - kHandle;
  if (left == 0) {
    free_buffer(buffer);
  } else if (left < kHandle) {
    current_worker()->pinned.fetch_add(nbytes, std::memory_order_relaxed);
  }
}

void Executor::drop_task_reference(Buffer* buffer, Worker* worker) {
  const int64_t nbytes = buffer->nbytes;
  if (buffer->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    worker->pinned.fetch_sub(nbytes, std::memory_order_relaxed);
    free_buffer(buffer);
  }
}

void Executor::drop_block(Block* block) {
  if (abandoned_ || block->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  if (block->device) block->device->memory.release(block->memory, block->nbytes);
  if (block->base) dispose(block->base);
  delete block;
}

void Executor::free_buffer(Buffer* buffer) {
  if (auto* poison = buffer->poison.exchange(nullptr, std::memory_order_acq_rel)) delete poison;
  if (Block* block = buffer->block.load(std::memory_order_acquire)) {
    drop_block(block);
  } else if (char* data = buffer->data.load(std::memory_order_relaxed)) {
    if (!buffer->donated) buffer->device->memory.release(data, buffer->nbytes);
  }
  uint64_t head = free_buffers_.load(std::memory_order_relaxed);
  do {
    buffer->next_free = reinterpret_cast<Buffer*>(head);
  } while (!free_buffers_.compare_exchange_weak(head, reinterpret_cast<uint64_t>(buffer), std::memory_order_release,
                                                std::memory_order_relaxed));
}

bool Executor::ensure_memory(Buffer* buffer) {
  if (buffer->data.load(std::memory_order_acquire) || buffer->nbytes == 0) return true;
  char* memory = buffer->device->memory.allocate(buffer->nbytes);
  if (!memory && buffer->device->streams) memory = buffer->device->streams->wait_for_memory(buffer->device, buffer->nbytes);
  if (!memory) return false;
  char* expected = nullptr;
  if (!buffer->data.compare_exchange_strong(expected, memory, std::memory_order_acq_rel))
    buffer->device->memory.release(memory, buffer->nbytes);  // a writer of another region was first
  return true;
}

// Whether nobody but the operation whose pieces begin at `first` will look at an operand's memory from here on, except
// tasks that come before whatever piece writes the same bytes. Under the record lock, and where the operand has no handle
// any more: then no task can be recorded on it, and every use of it is in its lists, all pieces among them.
bool Executor::can_take_over(const Body* body, const Operand* operands, uint64_t first, const OperandSpec& spec) {
  Buffer* donor = operands[spec.index].buffer;
  const Buffer* output = operands[body->operands[0].index].buffer;
  if (!donor->data.load(std::memory_order_acquire) || donor->block.load(std::memory_order_relaxed)) return false;
  if (donor == output || donor->nbytes != output->nbytes || donor->device != output->device) return false;
  if (output->first_writer != first || donor->last_writer >= first) return false;  // others write the one or the other
  for (const OperandSpec& other : body->operands) {
    const Operand& operand = operands[other.index];
    if (operand.buffer == donor && (!(other.mode & kDonates) || operand.offset != 0)) return false;
  }
  for (const AccessRecord& read : donor->reads) {
    const bool own = read.sequence >= first && read.sequence < first + body->pieces;
    if (!own && !is_done({read.task, read.sequence})) return false;
  }
  for (const AccessRecord& write : donor->writes) {  // ours come after it where they touch the same bytes
    if (!is_done({write.task, write.sequence}) && slot(write.task).lane == kPython) return false;  // exports the memory
  }
  return true;
}

// A result takes over the memory of an input that nobody else will look at: an update in place that no program sees.
// The first piece of the operation that is about to run decides; the others read and write through both buffers all
// the same. Whether it is so.
bool Executor::take_over(uint32_t index) {
  Task& task = slot(index);
  const Body* body = task.body;
  const Operand* operands = arguments(index).operands;
  Buffer* output = operands[body->operands[0].index].buffer;
  const char* memory = output->data.load(std::memory_order_acquire);
  const uint64_t first = task.sequence.load(std::memory_order_relaxed) - body->piece;
  for (const OperandSpec& spec : body->operands) {
    Buffer* donor = operands[spec.index].buffer;
    if (!(spec.mode & kDonates)) continue;
    if (memory) {
      if (memory == donor->data.load(std::memory_order_relaxed)) return true;
      continue;
    }
    if (donor->references.load(std::memory_order_acquire) >= kHandle) continue;
    std::lock_guard<SpinLock> guard(record_lock_);
    if (!can_take_over(body, operands, first, spec)) continue;
    char* fresh = nullptr;
    if (!output->data.compare_exchange_strong(fresh, donor->data.load(std::memory_order_relaxed),
                                              std::memory_order_acq_rel))
      return false;  // another piece got fresh memory meanwhile
    donor->donated = true;
    return true;
  }
  return false;
}

int64_t Executor::resolve(const Body* body, const Operand* operands, char** data) {
  size_t i = 0;
  for (const OperandSpec& spec : body->operands) {
    const Operand& operand = operands[spec.index];
    if (!ensure_memory(operand.buffer)) return operand.buffer->nbytes;
    if ((spec.mode & kWrite) && operand.buffer->detach_failed && !body->detaches && needs_detach(operand.buffer))
      return operand.buffer->nbytes;  // the copy that was to come before this write found no memory
    char* memory = operand.buffer->data.load(std::memory_order_acquire);
    data[i++] = memory ? memory + operand.offset + spec.offset : no_memory;
  }
  return 0;
}

Block* Executor::export_block(Buffer* buffer) {
  Block* block = buffer->block.load(std::memory_order_acquire);
  if (!block) {
    if (!ensure_memory(buffer)) return nullptr;
    block = new Block();
    block->memory = buffer->data.load(std::memory_order_acquire);
    block->nbytes = buffer->nbytes;
    block->device = buffer->device;
    buffer->block.store(block, std::memory_order_release);
  }
  block->references.fetch_add(1, std::memory_order_relaxed);
  return block;
}

bool Executor::needs_detach(Buffer* buffer) {
  Block* block = buffer->block;
  return block && (!block->device || block->references.load(std::memory_order_acquire) > 1 + buffer->graphs);
}

// Replaces exported or lent memory by a copy of its own; the task that calls it has the whole buffer to itself.
void Executor::detach(Buffer* buffer) {
  if (!needs_detach(buffer)) return;  // given back meanwhile
  Block* block = buffer->block;
  char* memory = buffer->device->memory.allocate(buffer->nbytes);
  buffer->detach_failed = !memory;
  if (!memory) return;  // the write that follows finds no memory: see resolve
  if (MemorySource* source = buffer->device->memory.source) source->copy(memory, block->memory, buffer->nbytes);
  else std::memcpy(memory, block->memory, buffer->nbytes);
  buffer->data.store(memory, std::memory_order_release);
  {
    std::lock_guard<SpinLock> guard(record_lock_);  // the recorder may be looking at the block: see needs_detach
    buffer->block = nullptr;
    buffer->graphs = 0;
  }
  drop_block(block);
}

// ---------------------------------------------------------------------------------------------------- failures

std::shared_ptr<Failure> Executor::find_poison(const Body* body, const Operand* operands) {
  std::shared_ptr<Failure> first;
  for (const OperandSpec& spec : body->operands) {
    if (!(spec.mode & kRead)) continue;
    Buffer* buffer = operands[spec.index].buffer;
    if (!buffer->poison.load(std::memory_order_acquire)) continue;
    std::shared_ptr<Failure> found = poison_of(buffer, region_of(spec, operands));
    if (found && (!first || found->sequence < first->sequence)) first = found;
  }
  return first;
}

std::shared_ptr<Failure> Executor::poison_of(Buffer* buffer, const Region& region, bool locked) {
  if (!buffer->poison.load(std::memory_order_acquire)) return nullptr;
  std::unique_lock<std::mutex> guard(failure_mutex_, std::defer_lock);
  if (locked) guard.lock();
  auto* poison = buffer->poison.load(std::memory_order_relaxed);
  std::shared_ptr<Failure> first;
  if (!poison) return first;
  for (const Poison& entry : *poison) {
    if (overlaps(entry.region, region) && (!first || entry.failure->sequence < first->sequence)) first = entry.failure;
  }
  return first;
}

// After a body ran or was skipped: its writes are poisoned by a failure, or heal what they replace.
void Executor::settle(const Body* body, const Operand* operands, const std::shared_ptr<Failure>& failure) {
  std::vector<std::shared_ptr<Failure>> dropped;  // destroyed after the lock
  for (const OperandSpec& spec : body->operands) {
    if (!(spec.mode & kWrite)) continue;
    Buffer* buffer = operands[spec.index].buffer;
    if (!failure && !buffer->poison.load(std::memory_order_acquire)) continue;
    const Region region = region_of(spec, operands);
    if (region.lo >= region.hi) continue;
    std::lock_guard<std::mutex> guard(failure_mutex_);
    auto* poison = buffer->poison.load(std::memory_order_relaxed);
    if (!poison) {
      poison = new std::vector<Poison>();
      buffer->poison.store(poison, std::memory_order_release);
    }
    if (failure || (spec.mode & kOverwrite)) {
      for (const Poison& p : *poison) {
        if (covers(region, p.region)) dropped.push_back(p.failure);
      }
      poison->erase(std::remove_if(poison->begin(), poison->end(),
                                   [&](const Poison& p) { return covers(region, p.region); }),
                    poison->end());
    }
    if (failure) {
      poison->push_back({region, failure});
    } else {
      // An empty list stays until the buffer goes: a task on another region may be about to look at it.
    }
  }
}

std::shared_ptr<Failure> Executor::make_failure(const Body* body, uint64_t sequence, uint32_t site, uint16_t device,
                                                int32_t code, const int64_t* details, void* exception) {
  auto* made = new Failure();
  live_failures_++;
  made->sequence = sequence;
  made->body = body;
  made->name = body->name;
  made->shapes = body->shapes;
  made->site = site;
  made->device = device;
  made->code = code;
  made->exception = exception;
  made->owner = body->owner;
  if (details) std::copy(details, details + 4, made->details);
  if (code == kOutOfMemory) made->holdings = largest(devices_[device].get(), 5);
  std::shared_ptr<Failure> failure(made, [this](Failure* dead) {
    if (dead->exception && !abandoned_) dispose(dead->exception);
    delete dead;
    live_failures_--;
  });
  std::lock_guard<std::mutex> guard(failure_mutex_);
  failures_.push_back(failure);
  return failure;
}

std::vector<Holding> Executor::largest(const Device* device, size_t most) {
  std::vector<Holding> found;
  std::lock_guard<SpinLock> guard(record_lock_);
  for (auto& chunk : buffer_chunks_) {
    for (int i = 0; i < kBufferChunk; i++) {
      const Buffer& buffer = chunk[i];
      if (buffer.device != device || !buffer.references.load(std::memory_order_acquire) || !buffer.data.load()) continue;
      found.push_back({buffer.nbytes, buffer.last_writer ? buffer.writer_name : 0, buffer.last_writer ? buffer.writer_site : 0});
    }
  }
  std::sort(found.begin(), found.end(), [](const Holding& a, const Holding& b) { return a.nbytes > b.nbytes; });
  if (found.size() > most) found.resize(most);
  return found;
}

std::vector<std::shared_ptr<Failure>> Executor::failures() {
  std::lock_guard<std::mutex> guard(failure_mutex_);
  auto copy = failures_;
  std::sort(copy.begin(), copy.end(), [](const auto& a, const auto& b) { return a->sequence < b->sequence; });
  return copy;
}

void Executor::forget_failures() {
  std::vector<std::shared_ptr<Failure>> dropped;  // destroyed after the lock
  std::lock_guard<std::mutex> guard(failure_mutex_);
  for (auto& failure : failures_) {
    if (failure->delivered) dropped.push_back(std::move(failure));
  }
  failures_.erase(std::remove(failures_.begin(), failures_.end(), nullptr), failures_.end());
}

// ---------------------------------------------------------------------------------------------------- run

void Executor::make_ready(uint32_t index, Worker* worker) {
  Task& task = slot(index);
  const uint64_t sequence = task.sequence.load(std::memory_order_relaxed);
  const bool owned = task.flags & kOwned;  // not to be read once its owner may run it
  move(task, State::kReady);
  if (owned) {  // the recording thread runs it; another thread's task may be what it waited for
    // Written, not only read: either this sees the thread that is about to sleep, or that one, which writes it too and then
    // looks at the state, sees the state (see wait_ready).
    if (waiting_.fetch_add(0, std::memory_order_acq_rel) > 0) wake_waiters();
    return;
  }
  if (task.lane == kPython) {
    {
      std::lock_guard<std::mutex> guard(python_mutex_);
      if (settings_.shuffle_seed) {
        std::lock_guard<SpinLock> random_guard(shuffle_lock_);
        python_queue_.push_back({static_cast<int32_t>(next_random(shuffle_random_) >> 40), sequence, index});
      } else {
        python_queue_.push_back({task.priority, sequence, index});
      }
      std::push_heap(python_queue_.begin(), python_queue_.end());
      python_ready_.fetch_add(1, std::memory_order_seq_cst);
    }
    python_cv_.notify_one();
    if (waiting_.load(std::memory_order_seq_cst) > 0) wake_waiters();
    return;
  }
  if (settings_.shuffle_seed) {
    std::lock_guard<SpinLock> guard(shuffle_lock_);
    shuffled_.push_back(index);
    shuffled_count_.fetch_add(1, std::memory_order_seq_cst);
  } else if (worker && !worker->next && task.priority == 0) {
    worker->next = index;  // its operands are in this core's cache; `next_task` weighs it against the others
    return;
  } else if (task.priority > 0 || task.body->cost >= kOrderedBytes) {
    push_ordered({task.priority, sequence, index});
  } else if (worker) {
    worker->deque.push(index);
  } else {
    injected_.push(index);
  }
  notify();
}

// Counts a finished (or launched) task's successors down. A link is read before its task is released: the task may
// run, finish and be reused at once.
void Executor::walk(uint32_t links, Worker* worker, const Arguments* launched) {
  while (links) {
    Task& holder = slot(links >> 4);
    const uint32_t next = holder.next[links & 15].load(std::memory_order_relaxed);
    const uint32_t index = holder.flags & kLinkBlock ? holder.site : links >> 4;
    Task& task = slot(index);
    if (next) __builtin_prefetch(&slot(next >> 4));
    if (launched) arguments(index).stream->waits.emplace_back(launched->stream_index, launched->position);
    if (task.pending.load(std::memory_order_acquire) == 1 || task.pending.fetch_sub(1, std::memory_order_acq_rel) == 1)
      make_ready(index, worker);
    links = next;
  }
}

void Executor::walk_launched(uint32_t index, Worker* worker) {
  Task& task = slot(index);
  move(task, State::kLaunched);
  walk(task.launch_head.exchange(kClosed, std::memory_order_acq_rel), worker, &arguments(index));
}

void Executor::free_slot(uint32_t index, Worker* worker) {
  if (!worker->free_slots) worker->free_slots = std::make_unique<FreeSlots>();
  FreeSlots& free = *worker->free_slots;
  free.slots[free.count++] = index;
  if (free.count == FreeSlots::kMost) flush_free(worker);
}

void Executor::flush_free(Worker* worker) {
  FreeSlots* free = worker->free_slots.release();
  if (!free) return;
  FreeSlots* head = free_slots_.load(std::memory_order_relaxed);
  do {
    free->next = head;
  } while (!free_slots_.compare_exchange_weak(head, free, std::memory_order_release, std::memory_order_relaxed));
}

void Executor::finish(uint32_t index, Worker* worker) {
  Task& task = slot(index);
  if (task.flags & kHasArguments) {
    Arguments& a = arguments(index);
    for (const OperandSpec& spec : task.body->operands) drop_task_reference(a.operands[spec.index].buffer, worker);
    if (a.operands != a.inline_operands) delete[] a.operands;
    if (a.scalars != a.inline_scalars) delete[] a.scalars;
    delete a.stream;
  }
  for (uint32_t block = task.link_blocks; block;) {
    const uint32_t next = slot(block).link_blocks;
    slot(block).flags = 0;
    free_slot(block, worker);
    block = next;
  }
  move(task, State::kDone);
  const uint32_t links = task.done_head.exchange(kClosed, std::memory_order_seq_cst);
  const bool waited = task.waited.load(std::memory_order_seq_cst);
  walk(links, worker);
  free_slot(index, worker);
  worker->done.store(worker->done.load(std::memory_order_relaxed) + 1, std::memory_order_seq_cst);
  if (waited) wake_waiters();
  if (watchers_.load(std::memory_order_seq_cst) > 0 && in_flight() <= watch_target_.load()) wake_waiters();
}

// Runs a resolved body, or fails it with what poisoned its operands.
void Executor::execute(uint32_t index, char** data, int64_t refused_bytes, Worker* worker, int32_t stream) {
  Task& task = slot(index);
  const Body* body = task.body;
  const int64_t begin = tracing_ ? now_ns() : 0;
  std::shared_ptr<Failure> failure;
  if (task.flags & kHasArguments) {
    Arguments& a = arguments(index);
    failure = find_poison(body, a.operands);
    if (!failure) {
      int64_t details[4] = {};
      int32_t code = 0;
      Failure raised;
      if (refused_bytes) {
        code = kOutOfMemory;
        details[0] = refused_bytes;
      } else if (body->detaches) {
        detach(a.operands[0].buffer);
      } else if (a.callable) {
        code = python_body(body, a, data, &raised) ? kRaised : 0;
      } else if (body->function) {
        code = body->function(data, body->params.data(), a.scalars, details);
      } else if (body->kernel) {
        code = devices_[task.device]->streams->run_here(index, data, details);
      }
      if (code)
        failure = make_failure(body, task.sequence.load(std::memory_order_relaxed), task.site, task.device, code, details,
                               raised.exception);
    }
  } else if (body->function) {
    int64_t details[4] = {};
    body->function(nullptr, body->params.data(), nullptr, details);
  }
  settle_and_finish(index, std::move(failure), worker, stream, begin);
}

void Executor::conclude(uint32_t index, std::shared_ptr<Failure> failure, Worker* worker, int32_t stream, int64_t begin_ns,
                        int64_t end_ns) {
  if (auto poison = find_poison(slot(index).body, arguments(index).operands)) failure = std::move(poison);
  settle_and_finish(index, std::move(failure), worker, stream, begin_ns, end_ns);
}

std::shared_ptr<Failure> Executor::fail(uint32_t index, int32_t code, const int64_t* details) {
  const Task& task = slot(index);
  return fail_as(task.body, index, task.site, code, details);
}

std::shared_ptr<Failure> Executor::fail_as(const Body* body, uint32_t index, uint32_t site, int32_t code, const int64_t* details) {
  const Task& task = slot(index);
  return make_failure(body, task.sequence.load(std::memory_order_relaxed), site, task.device, code, details, nullptr);
}

void Executor::settle_and_finish(uint32_t index, std::shared_ptr<Failure> failure, Worker* worker, int32_t stream,
                                 int64_t begin_ns, int64_t end_ns) {
  Task& task = slot(index);
  if (task.flags & kHasArguments) {
    Arguments& a = arguments(index);
    settle(task.body, a.operands, failure);
    if (a.callable) dispose(a.callable);
  }
  if (begin_ns) {
    std::lock_guard<SpinLock> guard(worker->events_lock);
    const uint64_t sequence = task.sequence.load(std::memory_order_relaxed);
    worker->events.push_back({sequence, begin_ns, end_ns ? end_ns : now_ns(), worker->index, stream, failure != nullptr});
  }
  failure.reset();  // who waits for the task may count the failures that are alive
  finish(index, worker);
}

void Executor::run(uint32_t index, Worker* worker) {
  Task& task = slot(index);
  Device* device = devices_[task.device].get();
  const Lane lane = task.lane;
  // The serial engine's threads run their tasks themselves, before anything that follows: no lane turns them away.
  const bool bounded = device->lanes[lane].bounded && !(task.flags & (kStreamed | kOwned));
  if (bounded && !task.holds_lane && !acquire_lane(index)) return;
  move(task, State::kRunning);
  if (task.flags & kStreamed) {
    device->streams->launch(index, worker);
  } else {
    char* data[16];
    std::vector<char*> many;
    char** pointers = data;
    int64_t refused_bytes = 0;
    if (task.flags & kHasArguments) {
      if (task.body->operands.size() > 16) {
        many.resize(task.body->operands.size());
        pointers = many.data();
      }
      if (task.body->donates) take_over(index);
      refused_bytes = resolve(task.body, arguments(index).operands, pointers);
    }
    execute(index, pointers, refused_bytes, worker, -1);
  }
  if (bounded) release_lane(device, lane, worker);
}

bool Executor::acquire_lane(uint32_t index) {
  Task& task = slot(index);
  LaneBound& bound = devices_[task.device]->lanes[task.lane];
  std::lock_guard<SpinLock> guard(bound.lock);
  if (bound.running < bound.limit) {
    bound.running++;
    return true;
  }
  bound.backlog.push_back({task.priority, task.sequence.load(std::memory_order_relaxed), index});
  std::push_heap(bound.backlog.begin(), bound.backlog.end());
  return false;
}

// The most urgent, then the earliest; it has its place on the lane from here on. Under the bound's lock.
uint32_t Executor::pop_backlog(LaneBound& bound) {
  std::pop_heap(bound.backlog.begin(), bound.backlog.end());
  const uint32_t index = bound.backlog.back().slot;
  bound.backlog.pop_back();
  slot(index).holds_lane = true;
  return index;
}

void Executor::release_lane(Device* device, Lane lane, Worker* worker) {
  LaneBound& bound = device->lanes[lane];
  uint32_t index = 0;
  {
    std::lock_guard<SpinLock> guard(bound.lock);
    if (bound.backlog.empty() || bound.running > bound.limit) {
      bound.running--;
      return;
    }
    index = pop_backlog(bound);
  }
  worker->deque.push(index);
  notify();
}

void Executor::push_ordered(const Urgent& entry) {
  std::lock_guard<SpinLock> guard(ordered_lock_);
  ordered_.push_back(entry);
  std::push_heap(ordered_.begin(), ordered_.end());
  ordered_count_.fetch_add(1, std::memory_order_seq_cst);
}

uint32_t Executor::pop_ordered(const Urgent& unless_before) {
  if (ordered_count_.load(std::memory_order_seq_cst) == 0) return 0;
  std::lock_guard<SpinLock> guard(ordered_lock_);
  if (ordered_.empty() || ordered_.front() < unless_before) return 0;
  std::pop_heap(ordered_.begin(), ordered_.end());
  const uint32_t index = ordered_.back().slot;
  ordered_.pop_back();
  ordered_count_.fetch_sub(1, std::memory_order_seq_cst);
  return index;
}

// What a worker does next: the successor it just released, unless that is long and something more urgent or earlier
// in program order is ready. Earlier first keeps few temporaries alive: memory stays warm. A task that writes over its
// input makes no temporary, and its input is in this core's cache: it only gives way to what is more urgent.
uint32_t Executor::next_task(Worker* worker) {
  const uint32_t next = worker->next;
  if (!next) return take(worker);
  worker->next = 0;
  Task& task = slot(next);
  if (task.body->cost < kOrderedBytes) return next;
  const Urgent entry{task.priority, task.sequence.load(std::memory_order_relaxed), next};
  const bool in_place = task.body->donates && !(task.flags & kStreamed) && take_over(next);
  const uint32_t better = pop_ordered(in_place ? Urgent{task.priority, 0, next} : entry);
  if (!better) return next;
  push_ordered(entry);
  notify();
  return better;
}

uint32_t Executor::take(Worker* worker) {
  if (paused_.load(std::memory_order_relaxed)) return 0;
  if (const uint32_t index = pop_ordered({INT32_MIN, 0, 0})) return index;
  if (settings_.shuffle_seed && shuffled_count_.load(std::memory_order_seq_cst) > 0) {
    std::lock_guard<SpinLock> guard(shuffle_lock_);
    if (!shuffled_.empty()) {
      std::swap(shuffled_[next_random(shuffle_random_) % shuffled_.size()], shuffled_.back());
      const uint32_t index = shuffled_.back();
      shuffled_.pop_back();
      shuffled_count_--;
      return index;
    }
  }
  if (const uint32_t index = worker->deque.pop()) return index;
  if (const uint32_t index = injected_.steal()) return index;
  const int count = worker_count_.load(std::memory_order_acquire);
  const int start = count ? static_cast<int>(next_random(worker->random) % count) : 0;
  for (int i = 0; i < count; i++) {
    Worker* victim = workers_[(start + i) % count].get();
    if (victim == worker) continue;
    if (const uint32_t index = victim->deque.steal()) return index;
  }
  return 0;
}

bool Executor::work_available() {
  if (paused_.load(std::memory_order_seq_cst)) return false;  // resume clears it, then looks for sleepers
  if (ordered_count_.load(std::memory_order_seq_cst) > 0 || shuffled_count_.load(std::memory_order_seq_cst) > 0) return true;
  if (!injected_.empty()) return true;
  const int count = worker_count_.load(std::memory_order_acquire);
  for (int i = 0; i < count; i++) {
    if (!workers_[i]->deque.empty()) return true;
  }
  return false;
}

// Wakes one sleeping worker unless another is looking for work already. Whoever publishes work does so with a
// sequentially consistent store before; a worker looks once more after it has announced its sleep.
void Executor::notify() {
  if (sleepers_.load(std::memory_order_seq_cst) == 0 || spinners_.load(std::memory_order_seq_cst) > 0) return;
  Worker* chosen;
  {
    std::lock_guard<std::mutex> guard(park_mutex_);
    if (parked_.empty()) return;
    const int here = settings_.steer && !settings_.pin ? current_core() : -1;
    auto elsewhere = std::find_if(parked_.rbegin(), parked_.rend(), [here](Worker* w) { return w->core != here; });
    auto place = elsewhere == parked_.rend() ? parked_.end() - 1 : elsewhere.base() - 1;
    chosen = *place;
    parked_.erase(place);
    if (here >= 0) chosen->kept_off.begin(chosen->thread, here);
    chosen->woken = true;
    sleepers_.fetch_sub(1, std::memory_order_seq_cst);
    spinners_.fetch_add(1, std::memory_order_seq_cst);  // the woken worker counts as looking from now on
  }
  wakeups_.fetch_add(1, std::memory_order_relaxed);
  chosen->wake.notify_one();
}

void Executor::worker_main(Worker* worker, int core) {
  this_worker = worker;
  worker->thread = pthread_self();
  if (core >= 0) bind_to_core(core);
#ifdef __linux__
  pthread_setname_np(pthread_self(), ("dagrun " + std::to_string(worker->index)).c_str());
#endif
  bool spinning = false;
  while (!end_workers_.load(std::memory_order_relaxed)) {
    const uint32_t index = next_task(worker);
    if (index) {
      if (spinning) {
        spinning = false;
        // The last one to look found something: if there is more, another must look.
        if (spinners_.fetch_sub(1, std::memory_order_seq_cst) == 1 && work_available()) notify();
      }
      run(index, worker);
      continue;
    }
    flush_free(worker);
    if (!spinning) {
      spinning = true;
      spinners_.fetch_add(1, std::memory_order_seq_cst);
    }
    const int64_t until = now_ns() + settings_.spin_microseconds * 1000;
    bool found = false;
    do {
      for (int i = 0; i < 16 && !found; i++) {
        found = work_available();
        if (!found) relax();
      }
    } while (!found && !end_workers_.load(std::memory_order_relaxed) && now_ns() < until);
    if (found) continue;
    std::unique_lock<std::mutex> lock(park_mutex_);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    spinners_.fetch_sub(1, std::memory_order_seq_cst);
    spinning = false;
    if (work_available() || end_workers_.load(std::memory_order_relaxed)) {
      sleepers_.fetch_sub(1, std::memory_order_seq_cst);
      spinners_.fetch_add(1, std::memory_order_seq_cst);  // looks again: whoever finds something passes the search on
      spinning = true;
      continue;
    }
    worker->core = current_core();
    parked_.push_back(worker);
    worker->wake.wait(lock, [this, worker] { return worker->woken || end_workers_.load(std::memory_order_relaxed); });
    if (!worker->woken) {  // the end: nobody may wake a thread that is gone
      parked_.erase(std::find(parked_.begin(), parked_.end(), worker));
      break;
    }
    worker->woken = false;
    worker->kept_off.end();
    spinning = true;  // wake_worker counted it
  }
  flush_free(worker);
}

// ---------------------------------------------------------------------------------------------------- wait

void Executor::wake_waiters() {
  { std::lock_guard<std::mutex> guard(wait_mutex_); }
  wait_cv_.notify_all();
}

// Runs one tiny ready task on a waiting user thread. A long one goes back to the workers.
Executor::Help Executor::help(Worker* worker) {
  const uint32_t index = take(worker);
  if (!index) return Help::kNothing;
  const Task& task = slot(index);
  if (task.body->cost > kHelpBytes) {
    push_ordered({task.priority, task.sequence.load(std::memory_order_relaxed), index});
    notify();
    return Help::kTooLong;
  }
  run(index, worker);
  hand_over(worker);
  return Help::kRan;
}

void Executor::hand_over(Worker* worker) {
  const uint32_t next = worker->next;
  if (!next) return;
  worker->next = 0;
  const Task& task = slot(next);
  if (task.body->cost >= kOrderedBytes) {
    push_ordered({task.priority, task.sequence.load(std::memory_order_relaxed), next});
  } else {
    worker->deque.push(next);
  }
  notify();
}

void Executor::pause() { paused_ = true; }

void Executor::resume() {
  if (!paused_.load(std::memory_order_seq_cst) || !paused_.exchange(false)) return;
  notify();
  { std::lock_guard<std::mutex> guard(python_mutex_); }
  python_cv_.notify_all();
}

bool Executor::wait_task(TaskName name, const std::function<bool()>& poll) {
  if (is_done(name)) return true;
  resume();
  Worker* self = current_worker();
  const int64_t until = now_ns() + settings_.spin_microseconds * 1000;
  bool helping = true;
  for (int spins = 0; !is_done(name); spins++) {
    if (python_work()) {
      if (!poll()) return false;
      continue;
    }
    if (helping) {
      const Help helped = help(self);
      if (helped == Help::kRan) continue;
      helping = helped == Help::kNothing;
    }
    if ((spins & 15) == 15 && now_ns() >= until) {
      Task& task = slot(name.slot);
      std::unique_lock<std::mutex> lock(wait_mutex_);
      waiting_.fetch_add(1, std::memory_order_seq_cst);
      task.waited.store(1, std::memory_order_seq_cst);
      if (!is_done(name) && !python_work()) wait_cv_.wait_for(lock, std::chrono::milliseconds(20));
      waiting_.fetch_sub(1, std::memory_order_seq_cst);
      lock.unlock();
      if (!is_done(name) && !poll()) return false;
    } else {
      relax();
    }
  }
  flush_free(self);
  return true;
}

bool Executor::wait_all(const std::function<bool()>& poll, int64_t timeout_ms) {
  resume();
  Worker* self = current_worker();
  const int64_t start = now_ns();
  const int64_t until = start + settings_.spin_microseconds * 1000;
  bool helping = true;
  for (int spins = 0; in_flight() > 0; spins++) {
    if (timeout_ms >= 0 && now_ns() - start > timeout_ms * 1000000) return false;
    if (python_work()) {
      if (!poll()) return false;
      if (python_body) continue;
    }
    if (helping) {
      const Help helped = help(self);
      if (helped == Help::kRan) continue;
      helping = helped == Help::kNothing;
    }
    if ((spins & 15) == 15 && now_ns() >= until) {
      std::unique_lock<std::mutex> lock(wait_mutex_);
      waiting_.fetch_add(1, std::memory_order_seq_cst);
      watch_target_ = 0;
      watchers_.fetch_add(1, std::memory_order_seq_cst);
      if (in_flight() > 0 && !python_work()) wait_cv_.wait_for(lock, std::chrono::milliseconds(20));
      watchers_.fetch_sub(1, std::memory_order_seq_cst);
      waiting_.fetch_sub(1, std::memory_order_seq_cst);
      lock.unlock();
      if (!poll()) return false;
    } else {
      relax();
    }
  }
  flush_free(self);
  return true;
}

bool Executor::wait_ready(TaskName name, const std::function<bool()>& poll) {
  Task& task = slot(name.slot);
  while (task.state.load(std::memory_order_acquire) == State::kPending) {
    std::unique_lock<std::mutex> lock(wait_mutex_);
    waiting_.fetch_add(1, std::memory_order_seq_cst);
    if (task.state.load(std::memory_order_acquire) == State::kPending)
      wait_cv_.wait_for(lock, std::chrono::milliseconds(20));
    waiting_.fetch_sub(1, std::memory_order_seq_cst);
    lock.unlock();
    if (!poll()) return false;
  }
  return true;
}

void Executor::run_owned(TaskName name) {
  Worker* self = current_worker();
  if (slot(name.slot).lane == kPython) {
    run_python(name.slot);
    return;
  }
  run(name.slot, self);
  hand_over(self);
}

// ---------------------------------------------------------------------------------------------------- python lane

uint32_t Executor::take_python(bool wait) {
  std::unique_lock<std::mutex> lock(python_mutex_);
  auto available = [this] { return !python_queue_.empty() && !python_busy_ && !paused_; };
  if (wait) python_cv_.wait(lock, [&] { return stopping || available(); });
  if (stopping || !available()) return 0;
  std::pop_heap(python_queue_.begin(), python_queue_.end());
  const uint32_t index = python_queue_.back().slot;
  python_queue_.pop_back();
  python_ready_.fetch_sub(1, std::memory_order_seq_cst);
  python_busy_ = true;
  return index;
}

void Executor::run_python(uint32_t index) {
  Worker* worker = current_worker();
  Task& task = slot(index);
  const bool owned = settings_.serial;
  move(task, State::kRunning);
  std::vector<char*> data(task.body->operands.size());
  const int64_t refused_bytes = resolve(task.body, arguments(index).operands, data.data());
  execute(index, data.data(), refused_bytes, worker, -1);
  hand_over(worker);
  if (owned) return;
  {
    std::lock_guard<std::mutex> guard(python_mutex_);
    python_busy_ = false;
  }
  python_cv_.notify_one();
  if (waiting_.load(std::memory_order_seq_cst) > 0) wake_waiters();
}

void Executor::stop_python() {
  {
    std::lock_guard<std::mutex> guard(python_mutex_);
    stopping = true;
  }
  python_cv_.notify_all();
}

// ---------------------------------------------------------------------------------------------------- watching

uint32_t Executor::intern(const std::string& text) {
  std::lock_guard<std::mutex> guard(text_mutex_);
  auto [entry, added] = text_ids_.try_emplace(text, static_cast<uint32_t>(texts_.size()));
  if (added) texts_.push_back(text);
  return entry->second;
}

std::string Executor::text(uint32_t id) {
  std::lock_guard<std::mutex> guard(text_mutex_);
  return id < texts_.size() ? texts_[id] : std::string();
}

void Executor::set_tracing(bool on) {
  std::lock_guard<SpinLock> guard(record_lock_);
  tracing_ = on;
}

std::vector<TraceTask> Executor::take_trace_tasks() {
  std::lock_guard<SpinLock> guard(record_lock_);
  return std::move(trace_tasks_);
}

std::vector<TraceEvent> Executor::take_trace_events() {
  std::vector<TraceEvent> all;
  for (int i = 0; i < worker_count_; i++) {
    std::lock_guard<SpinLock> guard(workers_[i]->events_lock);
    auto& events = workers_[i]->events;
    all.insert(all.end(), events.begin(), events.end());
    events.clear();
  }
  return all;
}

EngineStats Executor::stats() {
  EngineStats stats{};
  stats.recorded = pushed_.load() + inlined_;
  stats.finished = done_sum() + inlined_;
  stats.inlined = inlined_;
  stats.in_flight = in_flight();
  stats.pinned_bytes = pinned_sum();
  stats.slots = slots_used_;
  stats.slot_bytes = sizeof(Task);
  stats.admission_waits = admission_waits_;
  stats.wakeups = wakeups_.load();
  std::lock_guard<std::mutex> guard(failure_mutex_);
  stats.failures = static_cast<int64_t>(failures_.size());
  return stats;
}

std::vector<Executor::Waiting> Executor::unfinished(size_t most) {
  std::lock_guard<SpinLock> guard(record_lock_);
  std::vector<Waiting> result;
  std::unordered_map<uint32_t, size_t> place;
  for (uint32_t index = 1; index < slots_used_ && result.size() < most; index++) {
    Task& task = slot(index);
    const State state = task.state.load();
    if (state == State::kFree || state == State::kDone) continue;  // link blocks among them: they have no state
    place[index] = result.size();
    result.push_back({{index, task.sequence.load()}, state, task.body->name, task.site, task.body->shapes, task.device, {}});
  }
  const size_t found = result.size();
  for (size_t i = 0; i < found; i++) {
    Task& task = slot(result[i].name.slot);
    for (std::atomic<uint32_t>* head : {&task.done_head, &task.launch_head}) {
      uint32_t links = head->load(std::memory_order_acquire);
      while (links && links != kClosed) {
        Task& holder = slot(links >> 4);
        const uint32_t next = holder.next[links & 15].load(std::memory_order_relaxed);  // stable under the record lock
        if (head->load(std::memory_order_acquire) == kClosed) break;  // walked meanwhile: no longer waited for
        const uint32_t index = holder.sequence.load(std::memory_order_relaxed) ? links >> 4 : holder.site;
        auto entry = place.find(index);
        if (entry != place.end()) result[entry->second].predecessors.push_back(result[i].name);
        links = next;
      }
    }
  }
  return result;
}

}  // namespace dagrun
