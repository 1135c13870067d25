// A stand-in for libcuda and the few calls of cuBLAS: GPUs on the CPU that are as hostile as the documentation allows.
//
//   - Commands run on one thread of the emulator, late, in any order that streams and events permit, often the newest first.
//   - Device memory has addresses that the CPU cannot read: a pointer that is used on the wrong side ends the process.
//     What was freed is filled with garbage, and a copy or kernel that touches it loses the context, as on a GPU.
//   - Copies between CPU and GPU run late too, and only with pinned memory.
//   - What a driver would refuse, or what it would take and make slow, is written down: `emulator_misuses`.
//   - Failures can be ordered: `emulator_inject`.
//   - As a null driver (`emulator_null`) it takes everything and runs nothing, for benchmarks of the engine's own share.
// Modules are paths of shared objects made from the CUDA sources by host.h; a kernel NAME is their function NAME_host.
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace {

using Result = int;
using Pointer = unsigned long long;
constexpr Result kInvalidValue = 1, kOutOfMemory = 2, kInvalidContext = 201, kInvalidHandle = 400, kNotFound = 500,
                 kNotReady = 600, kIllegalAddress = 700, kUnsupported = 900, kInvalidated = 901, kMerge = 902,
                 kUnmatched = 903, kUnjoined = 904, kIsolation = 905, kCapturedEvent = 907, kWrongThread = 908;
constexpr int kGlobal = 0, kRelaxed = 2;
constexpr size_t kArena = 4ULL << 30, kAlignment = 512;

struct Call {  // dagrun::Call
  char* data[12];
  int64_t params[112];
  uint64_t scalars[12];
  int64_t* error;
};
using Kernel = void (*)(const Call*, unsigned, unsigned, unsigned);

struct Context {
  int device;
  Result lost = 0;
  size_t used = 0;
};
struct Node {
  void* workspace = nullptr;  // that a product uses
  std::function<Result()> run;  // empty: a record, a wait or a fork, which make no node of the driver's graph
  std::set<size_t> after;
};
struct Graph {
  std::vector<Node> nodes;
};
struct Stream;
struct Capture {  // ended ones stay: an event may name one
  Stream* origin;
  int mode;
  std::thread::id thread;
  bool ended = false;
  Result invalid = 0;
  Graph graph;
};
struct Event {
  Context* context;
  bool timed;
  uint64_t recorded = 0, reached = 0;
  Capture* capture = nullptr;  // recorded in it last, behind these nodes
  std::set<size_t> behind;
  int64_t time_ns = 0;  // when it was last reached
  int late = 0;         // so many questions still get the answer "not ready" when it is
};
struct Command {
  uint64_t order = 0;
  Event* event = nullptr;  // of a record or a wait
  uint64_t version = 0;
  bool waits = false;
  bool stalled = false;  // does not run before emulator_go_on
  std::function<Result()> run;
};
struct Stream {
  Context* context;
  std::deque<Command> commands;
  bool busy = false;  // its first command is running
  Capture* capture = nullptr;
  std::set<size_t> last{};  // what its next node comes after
  int64_t clock_ns = 0;  // so long were the commands that ran
};
struct Allocation {
  size_t size;
  Context* context;
};
struct BlasHandle {
  Context* context;
  Stream* stream = nullptr;
  void* workspace = nullptr;
  int math = 0;
};

long setting(const char* name, long otherwise) {
  const char* text = getenv(name);
  return text && *text ? atol(text) : otherwise;
}

struct Machine {
  std::mutex mutex;
  std::condition_variable work, progress;
  std::vector<Context> contexts;
  std::set<Stream*> streams;
  std::set<Event*> events;
  std::set<Capture*> captures;  // under way
  std::multiset<void*> taken;   // workspaces of graphs
  std::map<Pointer, Allocation> memory;
  std::map<char*, size_t> pinned;
  std::map<std::string, std::pair<long, Result>> injected;
  std::vector<std::string> misuses;
  Pointer device_base = 0, cursor = 0;
  char* host_base = nullptr;
  uint64_t random, orders = 0, held_for = 0;
  size_t capacity, queued = 0, pinned_bytes = 0, pinned_peak = 0;
  int64_t tick_ns = 0;  // the clocks of streams count commands, each so long; 0: the time of day
  int urgent = 0;  // threads that wait for a stream
  bool held = false;
  std::thread thread;

  Machine() {
    random = 0x9E3779B97F4A7C15ULL * static_cast<uint64_t>(setting("DAGRUN_EMULATED_SEED", 1)) + 1;
    capacity = static_cast<size_t>(setting("DAGRUN_EMULATED_BYTES", 1L << 30));
    contexts.resize(static_cast<size_t>(setting("DAGRUN_EMULATED_GPUS", 2)));
    for (size_t i = 0; i < contexts.size(); i++) contexts[i].device = static_cast<int>(i);
    const int file = memfd_create("emulated device memory", 0);
    if (ftruncate(file, kArena)) abort();
    host_base = static_cast<char*>(mmap(nullptr, kArena, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0));
    device_base = reinterpret_cast<Pointer>(mmap(nullptr, kArena, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    cursor = device_base;
    thread = std::thread([this] { main(); });
    thread.detach();
  }

  void misuse(const std::string& what) {
    misuses.push_back(what);
    std::fprintf(stderr, "emulator: %s\n", what.c_str());
  }
  bool inject(const char* what, Result& result) {
    auto found = injected.find(what);
    if (found == injected.end() || --found->second.first > 0) return false;
    result = found->second.second;
    injected.erase(found);
    return true;
  }
  uint64_t draw() {
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    return random;
  }
  int64_t time_of(const Stream& stream) const {
    if (tick_ns) return stream.clock_ns;
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  bool on_device(Pointer at) const { return at >= device_base && at < device_base + kArena; }
  char* host_view(Pointer at) const { return host_base + (at - device_base); }
  // The memory behind a device address, if all of it is one context's and was not freed.
  char* resolve(Pointer at, size_t nbytes, const Context* context) {
    auto after = memory.upper_bound(at);
    if (after == memory.begin()) return nullptr;
    auto& [base, allocation] = *--after;
    return at + nbytes <= base + allocation.size && allocation.context == context ? host_view(at) : nullptr;
  }
  bool is_pinned(const void* at, size_t nbytes) {
    auto after = pinned.upper_bound(static_cast<char*>(const_cast<void*>(at)));
    if (after == pinned.begin()) return false;
    auto& [base, size] = *--after;
    return static_cast<const char*>(at) + nbytes <= base + size;
  }

  // A call that a capture forbids invalidates it, whatever the call returns.
  Result forbid(Capture* capture, Result result, const char* call) {
    misuse(std::string(call) + " is not permitted while a stream is captured");
    capture->invalid = kInvalidated;
    return result;
  }
  // What cudaMalloc stands for in the documentation: potentially unsafe calls, by the modes of the captures under way.
  Result unsafe(const char* call) {
    for (Capture* capture : captures) {
      const bool own = capture->thread == std::this_thread::get_id();
      if (capture->mode == kGlobal || (own && capture->mode != kRelaxed)) return forbid(capture, kUnsupported, call);
    }
    return 0;
  }
  size_t add_node(Capture* capture, std::set<size_t> after, std::function<Result()> run) {
    capture->graph.nodes.push_back({nullptr, std::move(run), std::move(after)});
    return capture->graph.nodes.size() - 1;
  }

  Result push(Stream* stream, Command command) {
    if (Capture* capture = stream->capture) {
      if (!capture->invalid) stream->last = {add_node(capture, stream->last, std::move(command.run))};
      return capture->invalid;
    }
    command.order = ++orders;
    stream->commands.push_back(std::move(command));
    queued++;
    work.notify_all();
    return 0;
  }
  Stream* pick() {
    Stream* chosen = nullptr;
    uint64_t seen = 0;
    const bool newest = draw() >> 63;
    for (Stream* stream : streams) {
      if (stream->commands.empty()) continue;
      const Command& head = stream->commands.front();
      if (head.stalled || (head.waits && head.event->reached < head.version)) continue;
      seen++;
      if (!chosen || (newest ? head.order > chosen->commands.front().order : random % seen == 0)) chosen = stream;
    }
    return chosen;
  }
  void lose(Context* context, Result result) {
    context->lost = result;
    for (Stream* stream : streams) {
      if (stream->context != context) continue;
      queued -= stream->commands.size();
      stream->commands.clear();
    }
  }
  void main() {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      work.wait(lock, [this] { return queued > 0 && !held; });
      if (queued < 24 && held_for != orders && !urgent) {  // late: let more be enqueued that may overtake
        held_for = orders;
        work.wait_for(lock, std::chrono::microseconds(60));
        continue;
      }
      Stream* stream = pick();
      if (!stream) {
        work.wait(lock);
        continue;
      }
      Command command = std::move(stream->commands.front());
      stream->commands.pop_front();
      queued--;
      if (command.event && !command.waits) {
        command.event->reached = std::max(command.event->reached, command.version);
        command.event->time_ns = time_of(*stream);
      }
      if (command.run) {
        stream->clock_ns += tick_ns;
        stream->busy = true;
        lock.unlock();
        const Result result = command.run();
        lock.lock();
        stream->busy = false;
        if (result) lose(stream->context, result);
      }
      progress.notify_all();
    }
  }
};

Machine& machine() {
  static Machine* made = new Machine();
  return *made;
}
thread_local Context* current = nullptr;
std::atomic<bool> null_driver{false};  // set while nothing is under way

using Guard = std::unique_lock<std::mutex>;

Result usable(Machine& m, const char* call) {
  if (current) return current->lost;
  m.misuse(std::string(call) + " without a current context");
  return kInvalidContext;
}
Result check_stream(Machine& m, Stream* stream, const char* call) {
  if (Result result = usable(m, call)) return result;
  if (m.streams.count(stream) && stream->context == current) return 0;
  m.misuse(std::string(call) + " on a stream of another context");
  return kInvalidHandle;
}
Result check_event(Machine& m, Event* event, const char* call) {
  if (m.events.count(event)) return 0;
  m.misuse(std::string(call) + " of an event that does not exist");
  return kInvalidHandle;
}

// A copy that looks at its addresses when it runs.
Command copy_command(Pointer to, Context* to_context, Pointer from, Context* from_context, size_t nbytes) {
  Command command;
  command.run = [=]() -> Result {
    Machine& m = machine();
    char *target, *source;
    {
      Guard guard(m.mutex);
      Result wanted;
      if (m.inject("copy", wanted)) return wanted;
      target = to_context ? m.resolve(to, nbytes, to_context) : reinterpret_cast<char*>(to);
      source = from_context ? m.resolve(from, nbytes, from_context) : reinterpret_cast<char*>(from);
    }
    if (!target || !source) return kIllegalAddress;
    std::memcpy(target, source, nbytes);
    return 0;
  };
  return command;
}

}  // namespace

// ---- what tests ask

API void emulator_null(int on) { null_driver = on; }

API void emulator_inject(const char* what, long countdown, Result result) {
  Guard guard(machine().mutex);
  machine().injected[what] = {countdown, result};
}
API int emulator_misuses(char* out, int size) {
  Guard guard(machine().mutex);
  std::string all;
  for (const std::string& text : machine().misuses) all += text + "\n";
  std::snprintf(out, static_cast<size_t>(size), "%s", all.c_str());
  const int count = static_cast<int>(machine().misuses.size());
  machine().misuses.clear();
  return count;
}
// While on, nothing runs.
API void emulator_hold(int on) {
  Machine& m = machine();
  Guard guard(m.mutex);
  m.held = on;
  m.work.notify_all();
  m.progress.wait(guard, [&m] {
    return !m.held || std::none_of(m.streams.begin(), m.streams.end(), [](Stream* stream) { return stream->busy; });
  });
}
// Launches that were stalled on request run.
API void emulator_go_on() {
  Guard guard(machine().mutex);
  for (Stream* stream : machine().streams) {
    for (Command& command : stream->commands) command.stalled = false;
  }
  machine().work.notify_all();
}
// From now on each kernel, copy or fill takes so long by the clock of its stream.
API void emulator_tick(long nanoseconds) {
  Guard guard(machine().mutex);
  machine().tick_ns = nanoseconds;
}
// The most pinned memory there was at once since the last question.
API long emulator_pinned_peak() {
  Guard guard(machine().mutex);
  const size_t peak = machine().pinned_peak;
  machine().pinned_peak = machine().pinned_bytes;
  return static_cast<long>(peak);
}
// As after a new start of the process: nothing runs, no context is lost, nothing is allocated.
API void emulator_reset(uint64_t seed, size_t capacity) {
  emulator_hold(1);
  Machine& m = machine();
  Guard guard(m.mutex);
  for (Stream* stream : m.streams) delete stream;
  for (Event* event : m.events) delete event;
  for (auto& [memory, size] : m.pinned) free(memory);
  m.streams.clear();
  m.events.clear();
  m.pinned.clear();
  m.memory.clear();
  m.injected.clear();
  for (Context& context : m.contexts) context = {context.device};
  m.random = 0x9E3779B97F4A7C15ULL * seed + 1;
  m.capacity = capacity;
  m.queued = m.pinned_bytes = m.pinned_peak = 0;
  m.held = false;
}
API void* emulator_host_view(Pointer at) { return machine().host_view(at); }
API long emulator_events() {
  Guard guard(machine().mutex);
  return static_cast<long>(machine().events.size());
}

// ---- devices and contexts

API Result cuInit(unsigned) { return 0; }
API Result cuDeviceGetCount(int* count) {
  *count = static_cast<int>(machine().contexts.size());
  return 0;
}
API Result cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return ordinal >= 0 && ordinal < static_cast<int>(machine().contexts.size()) ? 0 : 101;
}
API Result cuDeviceGetName(char* name, int size, int device) {
  std::snprintf(name, static_cast<size_t>(size), "emulated GPU %d", device);
  return 0;
}
API Result cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 75 ? 9 : 0;
  return 0;
}
API Result cuDeviceTotalMem_v2(size_t* nbytes, int) {
  *nbytes = machine().capacity;
  return 0;
}
API Result cuDeviceCanAccessPeer(int* can, int, int) {
  *can = 0;
  return 0;
}
API Result cuDevicePrimaryCtxRetain(Context** context, int device) {
  *context = &machine().contexts[static_cast<size_t>(device)];
  return 0;
}
API Result cuCtxSetCurrent(Context* context) {
  current = context;
  return 0;
}
API Result cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return 0;
}
API Result cuCtxEnablePeerAccess(Context*, unsigned) { return 217; }

// ---- memory

API Result cuMemAlloc_v2(Pointer* out, size_t nbytes) {
  Machine& m = machine();
  Guard guard(m.mutex);
  if (Result result = usable(m, "cuMemAlloc")) return result;
  if (Result result = m.unsafe("cuMemAlloc")) return result;
  Result wanted;
  if (m.inject("allocate", wanted)) return wanted;
  if (!nbytes) return kInvalidValue;
  nbytes = (nbytes + kAlignment - 1) / kAlignment * kAlignment;
  if (current->used + nbytes > m.capacity) return kOutOfMemory;
  for (int round = 0; round < 2; round++, m.cursor = m.device_base) {  // addresses are used again late
    for (;;) {
      if (m.cursor + nbytes > m.device_base + kArena) break;
      auto next = m.memory.lower_bound(m.cursor);
      if (next != m.memory.begin()) {
        auto before = std::prev(next);
        if (before->first + before->second.size > m.cursor) {
          m.cursor = before->first + before->second.size;
          continue;
        }
      }
      if (next != m.memory.end() && m.cursor + nbytes > next->first) {
        m.cursor = next->first + next->second.size;
        continue;
      }
      *out = m.cursor;
      m.cursor += nbytes;
      m.memory[*out] = {nbytes, current};
      current->used += nbytes;
      std::memset(m.host_view(*out), 0xCB, nbytes);
      return 0;
    }
  }
  return kOutOfMemory;
}
API Result cuMemFree_v2(Pointer at) {
  Machine& m = machine();
  Guard guard(m.mutex);
  if (Result result = usable(m, "cuMemFree")) return result;
  if (Result result = m.unsafe("cuMemFree")) return result;
  auto found = m.memory.find(at);
  if (found == m.memory.end() || found->second.context != current) {
    m.misuse("cuMemFree of memory that is not there");
    return kInvalidValue;
  }
  std::memset(m.host_view(at), 0xDB, found->second.size);
  current->used -= found->second.size;
  m.memory.erase(found);
  return 0;
}
API Result cuMemHostAlloc(void** out, size_t nbytes, unsigned) {
  Machine& m = machine();
  Guard guard(m.mutex);
  if (Result result = usable(m, "cuMemHostAlloc")) return result;
  if (Result result = m.unsafe("cuMemHostAlloc")) return result;
  Result wanted;
  if (m.inject("pinned", wanted)) return wanted;
  *out = aligned_alloc(4096, (nbytes + 4095) / 4096 * 4096);
  m.pinned[static_cast<char*>(*out)] = nbytes;
  m.pinned_bytes += nbytes;
  m.pinned_peak = std::max(m.pinned_peak, m.pinned_bytes);
  return 0;
}
API Result cuMemFreeHost(void* at) {
  Machine& m = machine();
  Guard guard(m.mutex);
  if (Result result = usable(m, "cuMemFreeHost")) return result;
  if (Result result = m.unsafe("cuMemFreeHost")) return result;
  auto found = m.pinned.find(static_cast<char*>(at));
  if (found == m.pinned.end()) {
    m.misuse("cuMemFreeHost of memory that is not there");
    return kInvalidValue;
  }
  m.pinned_bytes -= found->second;
  m.pinned.erase(found);
  free(at);
  return 0;
}

// ---- streams and events

API Result cuStreamCreateWithPriority(Stream** out, unsigned, int) {
  Machine& m = machine();
  Guard guard(m.mutex);
  if (Result result = usable(m, "cuStreamCreate")) return result;
  *out = new Stream{current};
  m.streams.insert(*out);
  return 0;
}
API Result cuStreamSynchronize(Stream* stream) {
  if (null_driver) return 0;
  Machine& m = machine();
  Guard guard(m.mutex);
  if (Result result = check_stream(m, stream, "cuStreamSynchronize")) return result;
  if (stream->capture) return m.forbid(stream->capture, kUnsupported, "cuStreamSynchronize of a captured stream");
  if (Result result = m.unsafe("cuStreamSynchronize")) return result;
  m.urgent++;
  m.work.notify_all();
  m.progress.wait(guard, [&] { return (stream->commands.empty() && !stream->busy) || stream->context->lost; });
  m.urgent--;
  return stream->context->lost;
}
API Result cuEventCreate(Event** out, unsigned flags) {
  Machine& m = machine();
  Guard guard(m.mutex);
  if (Result result = usable(m, "cuEventCreate")) return result;
  *out = new Event{current, !(flags & 2)};
  m.events.insert(*out);
  return 0;
}
API Result cuEventRecord(Event* event, Stream* stream) {
  if (null_driver) return 0;
  Machine& m = machine();
  Guard guard(m.mutex);
  if (Result result = check_stream(m, stream, "cuEventRecord")) return result;
  if (Result result = check_event(m, event, "cuEventRecord")) return result;
  if (event->context != stream->context) {
    m.misuse("cuEventRecord of another context's event");
    return kInvalidHandle;
  }
  event->capture = stream->capture;
  if (event->capture) {
    event->behind = stream->last = {m.add_node(event->capture, stream->last, nullptr)};
    return event->capture->invalid;
  }
  Result wanted;
  if (m.inject("record", wanted)) return wanted;
  event->late = m.inject("late", wanted) ? wanted : 0;
  Command command;
  command.event = event;
  command.version = ++event->recorded;
  return m.push(stream, std::move(command));
}
API Result cuStreamWaitEvent(Stream* stream, Event* event, unsigned) {
  if (null_driver) return 0;
  Machine& m = machine();
  Guard guard(m.mutex);
  if (Result result = check_stream(m, stream, "cuStreamWaitEvent")) return result;
  if (Result result = check_event(m, event, "cuStreamWaitEvent")) return result;
  if (event->context->lost) return event->context->lost;
  if (event->capture && event->capture->ended) {
    m.misuse("cuStreamWaitEvent for an event of a capture that has ended");
    return kCapturedEvent;
  }
  if (stream->capture && !event->capture) return m.forbid(stream->capture, kIsolation, "a wait for what is not captured");
  if (stream->capture && stream->capture != event->capture) return m.forbid(stream->capture, kMerge, "a wait for another capture");
  if (event->capture) {
    stream->capture = event->capture;
    std::set<size_t> after = stream->last;
    after.insert(event->behind.begin(), event->behind.end());
    stream->last = {m.add_node(stream->capture, after, nullptr)};
    return stream->capture->invalid;
  }
  Command command;
  command.event = event;
  command.version = event->recorded;
  command.waits = true;
  return m.push(stream, std::move(command));
}
API Result cuEventQuery(Event* event) {
  if (null_driver) return 0;
  Machine& m = machine();
  Guard guard(m.mutex);
  if (Result result = check_event(m, event, "cuEventQuery")) return result;
  if (event->capture) return m.forbid(event->capture, kCapturedEvent, "cuEventQuery of an event that is captured");
  if (Result result = m.unsafe("cuEventQuery")) return result;
  Result wanted;
  if (m.inject("query", wanted)) m.lose(event->context, wanted);
  if (event->context->lost) return event->context->lost;
  if (event->reached < event->recorded) return kNotReady;
  return event->late-- > 0 ? kNotReady : 0;
}
API Result cuEventElapsedTime(float* milliseconds, Event* begin, Event* end) {
  Machine& m = machine();
  Guard guard(m.mutex);
  for (Event* event : {begin, end}) {
    if (Result result = check_event(m, event, "cuEventElapsedTime")) return result;
    if (event->context->lost) return event->context->lost;
    if (!event->timed || !event->recorded || event->context != begin->context) {
      m.misuse("cuEventElapsedTime of an event without a time");
      return kInvalidHandle;
    }
    if (event->reached < event->recorded) return kNotReady;
  }
  *milliseconds = static_cast<float>(static_cast<double>(end->time_ns - begin->time_ns) / 1e6);
  return 0;
}
API Result cuEventDestroy_v2(Event* event) {
  Machine& m = machine();
  Guard guard(m.mutex);
  if (Result result = check_event(m, event, "cuEventDestroy")) return result;
  m.events.erase(event);  // the object stays: its address must not come again
  return 0;
}

// ---- capture: the rules of cuStreamBeginCapture and cuThreadExchangeStreamCaptureMode

API Result cuStreamBeginCapture_v2(Stream* stream, int mode) {
  Machine& m = machine();
  Guard guard(m.mutex);
  if (Result result = check_stream(m, stream, "cuStreamBeginCapture")) return result;
  if (stream->capture) return m.forbid(stream->capture, kInvalidValue, "cuStreamBeginCapture");
  Result wanted;
  if (m.inject("begin", wanted)) return wanted;
  stream->capture = new Capture{stream, mode, std::this_thread::get_id()};
  stream->last = {m.add_node(stream->capture, {}, nullptr)};
  m.captures.insert(stream->capture);
  return 0;
}
API Result cuStreamEndCapture(Stream* stream, Graph** out) {
  Machine& m = machine();
  Guard guard(m.mutex);
  *out = nullptr;
  if (Result result = check_stream(m, stream, "cuStreamEndCapture")) return result;
  Capture* capture = stream->capture;
  if (!capture) return kInvalidValue;
  if (capture->origin != stream) return m.forbid(capture, kUnmatched, "cuStreamEndCapture of another stream");
  if (capture->mode != kRelaxed && capture->thread != std::this_thread::get_id())
    return m.forbid(capture, kWrongThread, "cuStreamEndCapture in another thread");
  Result result = capture->invalid;
  Result wanted;
  if (m.inject("end", wanted)) result = wanted;
  std::vector<Node>& nodes = capture->graph.nodes;
  std::set<size_t> joined, left = stream->last;
  while (!left.empty()) {
    const size_t node = *left.begin();
    left.erase(left.begin());
    if (joined.insert(node).second) left.insert(nodes[node].after.begin(), nodes[node].after.end());
  }
  for (Stream* other : m.streams) {
    if (other->capture != capture) continue;
    for (size_t node : other->last) {
      // Strict: what a stream took part in must be joined to its last event, whether it launched anything or not.
      if (!result && !joined.count(node)) m.misuse("cuStreamEndCapture before all streams are joined"), result = kUnjoined;
    }
    other->capture = nullptr;
    other->last.clear();
  }
  capture->ended = true;
  m.captures.erase(capture);
  if (!result) *out = new Graph(capture->graph);
  return result;
}
API Result cuGraphGetNodes(Graph* graph, void** nodes, size_t* count) {
  if (nodes) return kInvalidValue;  // nobody asks for them
  *count = 0;
  for (const Node& node : graph->nodes) *count += node.run != nullptr;
  return 0;
}
API Result cuGraphInstantiateWithFlags(Graph** out, Graph* graph, unsigned long long flags) {
  Machine& m = machine();
  Guard guard(m.mutex);
  Result wanted;
  if (m.inject("instantiate", wanted)) return wanted;
  *out = new Graph(*graph);
  for (const Node& node : graph->nodes) {
    if (node.workspace) m.taken.insert(node.workspace);
  }
  return flags ? kInvalidValue : 0;
}
API Result cuGraphDestroy(Graph* graph) {
  delete graph;
  return 0;
}
API Result cuGraphExecDestroy(Graph* graph) {  // the object stays: it may be running
  Guard guard(machine().mutex);
  for (const Node& node : graph->nodes) {
    if (node.workspace) machine().taken.erase(machine().taken.find(node.workspace));
  }
  return 0;
}
// Runs the nodes in any order that their edges permit.
API Result cuGraphLaunch(Graph* graph, Stream* stream) {
  if (null_driver) return 0;
  Machine& m = machine();
  Guard guard(m.mutex);
  if (Result result = check_stream(m, stream, "cuGraphLaunch")) return result;
  if (stream->capture) return m.forbid(stream->capture, kUnsupported, "cuGraphLaunch");
  Result wanted;
  if (m.inject("launch", wanted)) return wanted;
  Command command;
  command.run = [graph]() -> Result {
    std::vector<size_t> ready;
    std::vector<size_t> missing(graph->nodes.size());
    std::vector<std::vector<size_t>> next(graph->nodes.size());
    for (size_t i = 0; i < graph->nodes.size(); i++) {
      missing[i] = graph->nodes[i].after.size();
      for (size_t before : graph->nodes[i].after) next[before].push_back(i);
      if (!missing[i]) ready.push_back(i);
    }
    while (!ready.empty()) {
      {
        Guard inner(machine().mutex);
        std::swap(ready[machine().draw() % ready.size()], ready.back());
      }
      const size_t node = ready.back();
      ready.pop_back();
      if (graph->nodes[node].run) {
        if (Result result = graph->nodes[node].run()) return result;
      }
      for (size_t after : next[node]) {
        if (!--missing[after]) ready.push_back(after);
      }
    }
    return 0;
  };
  return m.push(stream, std::move(command));
}

// ---- copies

API Result cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t nbytes, Stream* stream) {
  if (null_driver) return 0;
  Machine& m = machine();
  Guard guard(m.mutex);
  if (Result result = check_stream(m, stream, "cuMemcpyHtoDAsync")) return result;
  if (!m.is_pinned(from, nbytes)) m.misuse("cuMemcpyHtoDAsync from memory that is not pinned");
  return m.push(stream, copy_command(to, current, reinterpret_cast<Pointer>(from), nullptr, nbytes));
}
API Result cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t nbytes, Stream* stream) {
  if (null_driver) return 0;
  Machine& m = machine();
  Guard guard(m.mutex);
  if (Result result = check_stream(m, stream, "cuMemcpyDtoHAsync")) return result;
  if (!m.is_pinned(to, nbytes)) m.misuse("cuMemcpyDtoHAsync to memory that is not pinned");
  return m.push(stream, copy_command(reinterpret_cast<Pointer>(to), nullptr, from, current, nbytes));
}
API Result cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t nbytes, Stream* stream) {
  if (null_driver) return 0;
  Machine& m = machine();
  Guard guard(m.mutex);
  if (Result result = check_stream(m, stream, "cuMemcpyDtoDAsync")) return result;
  return m.push(stream, copy_command(to, current, from, current, nbytes));
}
API Result cuMemcpyPeerAsync(Pointer to, Context* to_context, Pointer from, Context* from_context, size_t nbytes, Stream* stream) {
  if (null_driver) return 0;
  Machine& m = machine();
  Guard guard(m.mutex);
  if (Result result = check_stream(m, stream, "cuMemcpyPeerAsync")) return result;
  return m.push(stream, copy_command(to, to_context, from, from_context, nbytes));
}
API Result cuMemsetD8Async(Pointer at, unsigned char value, size_t nbytes, Stream* stream) {
  if (null_driver) return 0;
  Machine& m = machine();
  Guard guard(m.mutex);
  if (Result result = check_stream(m, stream, "cuMemsetD8Async")) return result;
  Command command;
  command.run = [at, value, nbytes, context = current]() -> Result {
    char* memory;
    {
      Guard inner(machine().mutex);
      memory = machine().resolve(at, nbytes, context);
    }
    if (!memory) return kIllegalAddress;
    std::memset(memory, value, nbytes);
    return 0;
  };
  return m.push(stream, std::move(command));
}

// ---- modules and launches

API Result cuModuleLoadData(void** out, const void* image) {
  *out = dlopen(static_cast<const char*>(image), RTLD_NOW | RTLD_LOCAL);
  if (!*out) std::fprintf(stderr, "emulator: %s\n", dlerror());
  return *out ? 0 : 200;
}
API Result cuModuleGetFunction(void** out, void* library, const char* name) {
  *out = dlsym(library, (std::string(name) + "_host").c_str());
  return *out ? 0 : kNotFound;
}
API Result cuFuncSetAttribute(void*, int, int) { return 0; }
API Result cuLaunchKernel(void* function, unsigned blocks, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz,
                          unsigned shared, Stream* stream, void** parameters, void**) {
  if (null_driver) return 0;
  Machine& m = machine();
  Guard guard(m.mutex);
  if (Result result = check_stream(m, stream, "cuLaunchKernel")) return result;
  Result wanted;
  if (m.inject("launch", wanted)) return wanted;
  if (!blocks || !threads || threads > 1024 || y * z * ty * tz != 1 || shared > 227 << 10) {
    m.misuse("cuLaunchKernel with an impossible geometry");
    return kInvalidValue;
  }
  Call call = *static_cast<Call*>(parameters[0]);
  if (!m.is_pinned(call.error, 40)) m.misuse("error words that are not pinned");
  Command command;
  command.stalled = m.inject("stall", wanted);
  command.run = [call, function, blocks, threads, shared, context = current]() -> Result {
    Call own = call;  // a graph runs it again
    {
      Machine& m = machine();
      Guard inner(m.mutex);
      Result fault;
      if (m.inject("fault", fault)) return fault;
      for (char*& data : own.data) {
        const Pointer at = reinterpret_cast<Pointer>(data);
        Dl_info info;
        if (m.on_device(at)) {
          data = m.resolve(at, 0, context);
          if (!data) return kIllegalAddress;
        } else if (at && !dladdr(data, &info)) {
          data = nullptr;  // unset words, or memory of the CPU: a kernel that looks at it ends the process
        }
      }
    }
    reinterpret_cast<Kernel>(function)(&own, blocks, threads, shared);
    return 0;
  };
  return m.push(stream, std::move(command));
}
API Result cuGetErrorName(Result result, const char** name) {
  static const std::map<Result, const char*> names = {{1, "CUDA_ERROR_INVALID_VALUE"},
                                                      {2, "CUDA_ERROR_OUT_OF_MEMORY"},
                                                      {201, "CUDA_ERROR_INVALID_CONTEXT"},
                                                      {400, "CUDA_ERROR_INVALID_HANDLE"},
                                                      {700, "CUDA_ERROR_ILLEGAL_ADDRESS"},
                                                      {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"},
                                                      {719, "CUDA_ERROR_LAUNCH_FAILED"},
                                                      {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
                                                      {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
                                                      {904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED"},
                                                      {907, "CUDA_ERROR_CAPTURED_EVENT"}};
  auto found = names.find(result);
  *name = found == names.end() ? "CUDA_ERROR_UNKNOWN" : found->second;
  return 0;
}

// ---- cuBLAS

namespace {

double value_at(const char* base, int type, int64_t index) {
  if (type == 0) return reinterpret_cast<const float*>(base)[index];
  if (type == 1) return reinterpret_cast<const double*>(base)[index];
  return static_cast<double>(reinterpret_cast<const _Float16*>(base)[index]);
}
void set_value(char* base, int type, int64_t index, double value) {
  if (type == 0) reinterpret_cast<float*>(base)[index] = static_cast<float>(value);
  else if (type == 1) reinterpret_cast<double*>(base)[index] = value;
  else reinterpret_cast<_Float16*>(base)[index] = static_cast<_Float16>(value);
}

// What is summed in has the width of the compute type. The order is none that the CPU takes, and depends on the call, as
// cuBLAS's does: two sums, of which one goes up and the other down.
template <class Sum, class Term>
double sum_of(int64_t count, int64_t first, Term term) {
  Sum up = 0, down = 0;
  for (int64_t l = 0; l < first; l++) up += static_cast<Sum>(term(l));
  for (int64_t l = count; l-- > first;) down += static_cast<Sum>(term(l));
  return static_cast<double>(up + down);
}

// Column-major, as cuBLAS is: C = op(A) op(B); alpha 1 and beta 0.
Result enqueue_gemm(BlasHandle* handle, int op_a, int op_b, int m, int n, int k, const void* a, int type, int lda, int64_t step_a,
                    const void* b, int ldb, int64_t step_b, void* c, int ldc, int64_t step_c, int batch) {
  if (null_driver) return 0;
  Machine& machine_ = machine();
  Guard guard(machine_.mutex);
  if (check_stream(machine_, handle->stream, "cublasGemm")) return 14;
  if (!handle->workspace) machine_.misuse("cuBLAS without a workspace of its stream");
  if (type == 2 && !(handle->math & 16)) machine_.misuse("a product of float16 whose parts may be added in float16");
  if (batch > 65535) machine_.misuse("cublasGemmStridedBatchedEx of more products than a grid is deep");
  if (lda < (op_a ? k : m) || ldb < (op_b ? n : k) || ldc < m) return 7;
  Command command;
  command.run = [=, context = current]() -> Result {
    char *left, *right, *out;
    {
      Guard inner(machine().mutex);
      left = machine().resolve(reinterpret_cast<Pointer>(a), 0, context);
      right = machine().resolve(reinterpret_cast<Pointer>(b), 0, context);
      out = machine().resolve(reinterpret_cast<Pointer>(c), 0, context);
    }
    if (!left || !right || !out) return kIllegalAddress;
    for (int64_t i = 0; i < batch; i++) {
      for (int64_t column = 0; column < n; column++) {
        for (int64_t row = 0; row < m; row++) {
          auto term = [&](int64_t l) {
            return value_at(left, type, i * step_a + (op_a ? row * lda + l : l * lda + row)) *
                   value_at(right, type, i * step_b + (op_b ? l * ldb + column : column * ldb + l));
          };
          const int64_t first = (k * (batch > 1 ? 1 : 2) + m % 3) / 4 % (k + 1);
          set_value(out, type, i * step_c + column * ldc + row,
                    type == 1 ? sum_of<double>(k, first, term) : sum_of<float>(k, first, term));
        }
      }
    }
    return 0;
  };
  if (machine_.taken.count(handle->workspace)) machine_.misuse("a product in a workspace that a graph uses");
  const Result result = machine_.push(handle->stream, std::move(command));
  if (handle->stream->capture && !result) handle->stream->capture->graph.nodes.back().workspace = handle->workspace;
  return result;
}

}  // namespace

API Result cublasCreate_v2(BlasHandle** out) {
  Guard guard(machine().mutex);
  if (!machine().captures.empty()) machine().misuse("cublasCreate while a stream is captured: it allocates and waits");
  *out = new BlasHandle{current};
  return current ? 0 : 1;
}
API Result cublasSetStream_v2(BlasHandle* handle, Stream* stream) {
  handle->stream = stream;
  handle->workspace = nullptr;
  return 0;
}
API Result cublasSetMathMode(BlasHandle* handle, int mode) {
  handle->math = mode;
  return 0;
}
API Result cublasSetWorkspace_v2(BlasHandle* handle, void* workspace, size_t nbytes) {
  Guard guard(machine().mutex);
  handle->workspace = machine().resolve(reinterpret_cast<Pointer>(workspace), nbytes, handle->context);
  return handle->workspace ? 0 : 7;
}
API Result cublasGemmEx(BlasHandle* handle, int op_a, int op_b, int m, int n, int k, const void*, const void* a, int type, int lda,
                        const void* b, int, int ldb, const void*, void* c, int, int ldc, int, int) {
  return enqueue_gemm(handle, op_a, op_b, m, n, k, a, type, lda, 0, b, ldb, 0, c, ldc, 0, 1);
}
API Result cublasGemmStridedBatchedEx(BlasHandle* handle, int op_a, int op_b, int m, int n, int k, const void*, const void* a, int type,
                                      int lda, long long step_a, const void* b, int, int ldb, long long step_b, const void*, void* c,
                                      int, int ldc, long long step_c, int batch, int, int) {
  return enqueue_gemm(handle, op_a, op_b, m, n, k, a, type, lda, step_a, b, ldb, step_b, c, ldc, step_c, batch);
}
