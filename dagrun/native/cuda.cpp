#include "cuda.h"

#include <algorithm>
#include <chrono>
#include <cstring>

namespace dagrun {

namespace {

constexpr int64_t kStagingBytes = 256 << 20;    // the most pinned memory that copies hold at once
constexpr int64_t kMostProducts = 1 << 15;      // of one call of cuBLAS: grids have 65535 blocks in their third dimension

CudaGraph* graph_of(const Body& body) {
  return body.kernel && body.kernel->kind == Kernel::kGraph ? static_cast<CudaGraph*>(body.kernel->function) : nullptr;
}

cuda::DevicePointer address(const char* memory) { return reinterpret_cast<cuda::DevicePointer>(memory); }

class GpuMemory : public MemorySource {
 public:
  GpuMemory(const cuda::Driver& driver, const Gpu& gpu) : driver_(driver), gpu_(gpu) {}
  char* allocate(int64_t nbytes) override {
    cuda::DevicePointer memory = 0;
    driver_.set_current(gpu_.context);
    return driver_.allocate(&memory, static_cast<size_t>(nbytes)) ? nullptr : reinterpret_cast<char*>(memory);
  }
  void release(char* memory) override {
    driver_.set_current(gpu_.context);
    driver_.release(address(memory));
  }
  void overwrite(char* memory, int64_t nbytes) override {
    driver_.set_current(gpu_.context);
    driver_.fill(address(memory), 0xA5, static_cast<size_t>(nbytes), gpu_.own_stream);
    driver_.stream_synchronize(gpu_.own_stream);
  }
  bool copy(char* target, const char* source, int64_t nbytes) override {
    driver_.set_current(gpu_.context);
    return !driver_.copy_within(address(target), address(source), static_cast<size_t>(nbytes), gpu_.own_stream) &&
           !driver_.stream_synchronize(gpu_.own_stream);
  }

 private:
  const cuda::Driver& driver_;
  const Gpu& gpu_;
};

// Memory of the CPU that every GPU can reach. Any context can give it, so one that is lost stops nobody else's copies.
class PinnedMemory : public MemorySource {
 public:
  explicit PinnedMemory(const cuda::Driver& driver) : driver_(driver) {}
  void add(cuda::Handle context) {
    std::lock_guard<std::mutex> guard(mutex_);
    contexts_.push_back(context);
  }
  char* allocate(int64_t nbytes) override {
    std::lock_guard<std::mutex> guard(mutex_);
    void* memory = nullptr;
    for (cuda::Handle context : contexts_) {
      if (!driver_.set_current(context) &&
          !driver_.host_allocate(&memory, static_cast<size_t>(nbytes), cuda::kHostAllocPortable))
        return static_cast<char*>(memory);
    }
    return nullptr;
  }
  void release(char* memory) override {
    std::lock_guard<std::mutex> guard(mutex_);
    for (cuda::Handle context : contexts_) {
      if (!driver_.set_current(context) && !driver_.host_release(memory)) return;
    }
  }
  void overwrite(char* memory, int64_t nbytes) override { std::memset(memory, 0xA5, static_cast<size_t>(nbytes)); }
  bool copy(char* target, const char* source, int64_t nbytes) override {
    std::memcpy(target, source, static_cast<size_t>(nbytes));
    return true;
  }

 private:
  const cuda::Driver& driver_;
  std::mutex mutex_;
  std::vector<cuda::Handle> contexts_;
};

}  // namespace

// ---- life

CudaStreams::CudaStreams(Executor& executor, const std::string& driver_path, const std::string& blas_path,
                         std::string& problem)
    : Streams(executor) {
  problem = cuda::load_driver(driver_path.c_str(), driver_);
  if (!problem.empty()) return;
  cuda::Result result = driver_.init(0);
  if (!result) result = driver_.device_count(&gpu_count_);
  if (result) problem = cuda::describe(driver_, result);
  else if (!gpu_count_) problem = "the driver sees no GPU";
  if (!problem.empty()) return;
  blas_problem_ = blas_path.empty() ? "no cuBLAS was found" : cuda::load_blas(blas_path.c_str(), blas_);
  gpus_.resize(static_cast<size_t>(gpu_count_));
  pinned_ = std::make_unique<PinnedMemory>(driver_);
  staging_.source = errors_.source = pinned_.get();
  staging_.limit_bytes = staging_.cache_bytes = kStagingBytes;
  thread_ = std::thread([this] { main(); });
}

void CudaStreams::stop() {
  {
    std::lock_guard<std::mutex> guard(mutex_);
    stop_ = true;
  }
  work_.notify_all();
  if (thread_.joinable()) thread_.join();
}

std::string CudaStreams::gpu_name(int ordinal) {
  char name[256] = "";
  int device = 0;
  if (driver_.device_get(&device, ordinal) || driver_.device_name(name, sizeof name, device)) return "a GPU without a name";
  return name;
}

int64_t CudaStreams::gpu_bytes(int ordinal) {
  size_t nbytes = 0;
  int device = 0;
  return driver_.device_get(&device, ordinal) || driver_.device_memory(&nbytes, device) ? 0 : static_cast<int64_t>(nbytes);
}

int CudaStreams::capability(int ordinal) {
  int device = 0, major = 0, minor = 0;
  if (driver_.device_get(&device, ordinal) || driver_.device_attribute(&major, cuda::kComputeCapabilityMajor, device) ||
      driver_.device_attribute(&minor, cuda::kComputeCapabilityMinor, device))
    return 0;
  return major * 10 + minor;
}

bool CudaStreams::peers(int ordinal, int other) {
  int device = 0, far = 0, can = 0;
  return !driver_.device_get(&device, ordinal) && !driver_.device_get(&far, other) &&
         !driver_.can_access_peer(&can, device, far) && can;
}

Gpu* CudaStreams::gpu(int ordinal, std::string& problem) {
  if (gpus_[ordinal]) return gpus_[ordinal].get();
  auto made = std::make_unique<Gpu>();
  made->ordinal = ordinal;
  int device = 0;
  cuda::Result result = driver_.device_get(&device, ordinal);
  if (!result) result = driver_.retain_primary(&made->context, device);
  if (!result) result = driver_.set_current(made->context);
  if (!result) result = driver_.stream_create(&made->own_stream, cuda::kStreamNonBlocking, 0);
  for (auto& other : gpus_) {
    if (result || !other || !peers(ordinal, other->ordinal)) continue;
    for (auto [here, there] : {std::pair{made.get(), other.get()}, std::pair{other.get(), made.get()}}) {
      driver_.set_current(here->context);
      const cuda::Result enabled = driver_.enable_peer(there->context, 0);  // a refusal costs speed, not values
      (void)enabled;
    }
    result = driver_.set_current(made->context);
  }
  if (result) {
    problem = cuda::describe(driver_, result);
    return nullptr;
  }
  made->memory = std::make_unique<GpuMemory>(driver_, *made);
  static_cast<PinnedMemory*>(pinned_.get())->add(made->context);
  gpus_[ordinal] = std::move(made);
  return gpus_[ordinal].get();
}

std::string CudaStreams::open(Device* device, int ordinal, int compute, int copy, int communication) {
  std::string problem;
  {
    std::lock_guard<std::mutex> guard(mutex_);
    Gpu* own = gpu(ordinal, problem);
    if (!own) return problem;
    int least = 0, greatest = 0;
    driver_.set_current(own->context);
    driver_.priority_range(&least, &greatest);
    for (int i = 0; i < compute + copy + communication; i++) {
      Queue queue;
      queue.gpu = own;
      const cuda::Result result =
          driver_.stream_create(&queue.stream, cuda::kStreamNonBlocking, i < compute ? least : greatest);
      if (result) return cuda::describe(driver_, result);
      queues_.push_back(std::move(queue));
    }
    device->memory.source = own->memory.get();
    device->memory.cache_bytes = 1LL << 50;  // giving memory back stops the GPU: only when there is none left
    device->target = static_cast<uint8_t>(ordinal + 1);
    device->streams = this;
  }
  add_device(device->index, compute, copy, communication);
  return "";
}

void* CudaStreams::load(int ordinal, const char* image, const char* name, uint32_t shared_bytes, std::string& problem) {
  Gpu* own;
  {
    std::lock_guard<std::mutex> guard(mutex_);
    own = gpu(ordinal, problem);
  }
  if (!own) return nullptr;
  use(*own);
  cuda::Handle module = nullptr, function = nullptr;
  cuda::Result result = driver_.module_load(&module, image);
  if (!result) result = driver_.module_function(&function, module, name);
  if (!result && shared_bytes > 48 << 10)
    result = driver_.function_attribute(function, cuda::kMaxDynamicSharedBytes, static_cast<int>(shared_bytes));
  if (!result) return function;
  problem = cuda::describe(driver_, result);
  return nullptr;
}

// ---- memory

char* CudaStreams::allocate(Allocator& memory, int64_t nbytes) {
  for (;;) {
    uint64_t seen;
    {
      std::lock_guard<std::mutex> guard(mutex_);
      seen = concluded_;
    }
    memory.trim();
    if (char* found = memory.allocate(nbytes)) return found;
    std::unique_lock<std::mutex> lock(mutex_);
    if (capture_ && &capture_->device->memory == &memory) return nullptr;  // nothing ends before the capture does
    if (concluded_ == seen && unfinished_ == 0) return nullptr;
    room_.wait(lock, [&] { return concluded_ != seen || unfinished_ == 0; });
  }
}

// Pinned memory for a copy that crosses between CPU and GPU: a copy from or to other memory would not be asynchronous.
void CudaStreams::stage(uint32_t slot, Prepared& prepared) {
  const Body& body = *executor_.slot(slot).body;
  if (!body.kernel || body.kernel->kind != Kernel::kCopy || prepared.refused_bytes) return;
  const Operand* operands = executor_.arguments(slot).operands;
  const bool to_device = is_device_memory(operands[body.operands[0].index].buffer);
  const bool from_device = is_device_memory(operands[body.operands[1].index].buffer);
  if (to_device && from_device) return;
  const int64_t nbytes = body.params[0];
  if (!nbytes) return;
  prepared.staging = staging_.allocate(nbytes);
  if (!prepared.staging) prepared.staging = allocate(staging_, nbytes);
  prepared.staging_bytes = nbytes;
  if (!prepared.staging) prepared.refused_bytes = nbytes;
  else if (to_device) std::memcpy(prepared.staging, prepared.data[1], static_cast<size_t>(nbytes));
}

// What a GPU may still write to after it was lost is not used again; nor are error words.
void CudaStreams::unstage(uint32_t slot, Prepared& prepared, bool good, bool lost) {
  if (!prepared.staging) return;
  const Body& body = *executor_.slot(slot).body;
  const bool to_device = is_device_memory(executor_.arguments(slot).operands[body.operands[0].index].buffer);
  if (good && !to_device) std::memcpy(prepared.data[0], prepared.staging, static_cast<size_t>(prepared.staging_bytes));
  if (!lost) staging_.release(prepared.staging, prepared.staging_bytes);
}

Prepared CudaStreams::prepare(uint32_t slot) {
  Prepared prepared = Streams::prepare(slot);
  stage(slot, prepared);
  return prepared;
}

// ---- launches

cuda::Result CudaStreams::enqueue(uint16_t stream, uint32_t slot, const Prepared& prepared, int64_t* error) {
  Queue& queue = queues_[stream];
  const Body& body = *executor_.slot(slot).body;
  if (!body.kernel) return cuda::kSuccess;
  use(*queue.gpu);
  if (body.kernel->kind == Kernel::kCopy) return enqueue_copy(queue, slot, prepared);
  if (body.kernel->kind == Kernel::kGemm) return enqueue_product(stream, body, prepared.data.data());
  if (body.kernel->kind == Kernel::kGraph) return driver_.graph_launch(graph_of(body)->executable, queue.stream);
  if (!body.kernel->blocks) return cuda::kSuccess;
  const Arguments& arguments = executor_.arguments(slot);
  KernelCall call;  // its sizes were checked when the body was made
  std::fill(std::copy(prepared.data.begin(), prepared.data.end(), call.data), std::end(call.data), nullptr);
  std::copy(body.params.begin(), body.params.end(), call.params);
  std::copy(arguments.scalars, arguments.scalars + arguments.scalar_count, call.scalars);
  call.error = error;
  void* parameters[] = {&call};
  return driver_.launch(body.kernel->function, body.kernel->blocks, 1, 1, body.kernel->threads, 1, 1,
                        body.kernel->shared_bytes, queue.stream, parameters, nullptr);
}

cuda::Result CudaStreams::enqueue_copy(Queue& queue, uint32_t slot, const Prepared& prepared) {
  const Body& body = *executor_.slot(slot).body;
  const Operand* operands = executor_.arguments(slot).operands;
  const Buffer *target = operands[body.operands[0].index].buffer, *source = operands[body.operands[1].index].buffer;
  const size_t nbytes = static_cast<size_t>(body.params[0]);
  char *to = prepared.data[0], *from = prepared.data[1];
  if (!nbytes) return cuda::kSuccess;
  if (!is_device_memory(source)) return driver_.copy_to_device(address(to), prepared.staging, nbytes, queue.stream);
  if (!is_device_memory(target)) return driver_.copy_to_host(prepared.staging, address(from), nbytes, queue.stream);
  const Gpu &near = *gpus_[target->device->target - 1], &far = *gpus_[source->device->target - 1];
  if (&near == &far) return driver_.copy_within(address(to), address(from), nbytes, queue.stream);
  return driver_.copy_peer(address(to), near.context, address(from), far.context, nbytes, queue.stream);
}

cuda::Result CudaStreams::make_blas(Queue& queue) {
  if (!queue.workspace) queue.workspace = queue.gpu->memory->allocate(kWorkspaceBytes);
  if (!queue.workspace) return cuda::kOutOfMemory;
  cuda::Result result = blas_.create(&queue.blas);
  if (!result) result = blas_.set_stream(queue.blas, queue.stream);
  if (!result) result = blas_.set_workspace(queue.blas, queue.workspace, kWorkspaceBytes);  // set_stream resets it
  if (!result) result = blas_.set_math_mode(queue.blas, cuda::kSumsInComputeType);  // float16: else parts may be added in it
  if (result) queue.blas = nullptr;
  return result ? cuda::kBlasFailed : cuda::kSuccess;
}

// Params as in `codegen/gemm.py`. cuBLAS thinks in columns: it computes the transposed product of the operands swapped.
cuda::Result CudaStreams::enqueue_product(uint16_t stream, const Body& body, char* const* data) {
  Queue& queue = queues_[stream];
  const int64_t* p = body.params.data();
  const int dims = static_cast<int>(p[0]), type = body.kernel->dtype, compute = body.kernel->compute;
  const int64_t m = p[1], n = p[2], k = p[3];
  if (m < 0) return cuda::kSuccess;
  const int64_t itemsize = type == cuda::kFloat64 ? 8 : type == cuda::kFloat32 ? 4 : 2;
  const int op_a = p[4] == 111 ? 0 : 1, op_b = p[5] == 111 ? 0 : 1;
  const int64_t lda = p[6], ldb = p[7], ldc = p[8];
  if (k > 0 && !queue.blas) {
    // For a capture it was made before, where there was memory.
    if (const cuda::Result result = captures(stream) ? cuda::kOutOfMemory : make_blas(queue)) return result;
  }
  if (k > 0 && captures(stream)) {
    if (const cuda::Result result = own_workspace(stream)) return result;
  }
  const double one = 1, zero = 0;
  const float one_single = 1, zero_single = 0;
  const bool wide = type == cuda::kFloat64;
  const void *alpha = wide ? static_cast<const void*>(&one) : &one_single, *beta = wide ? static_cast<const void*>(&zero) : &zero_single;
  const int64_t* inner = p + 9;  // the innermost batch dimension goes in one call; size, strides of C, A, B in bytes
  const int64_t batch = dims ? inner[0] : 1;
  int64_t calls = 1;
  for (int d = 1; d < dims; d++) calls *= p[9 + 4 * d];
  for (int64_t i = 0; i < calls; i++) {
    char *c = data[0], *a = data[1], *b = data[2];
    int64_t rest = i;
    for (int d = 1; d < dims; d++) {
      const int64_t* dim = p + 9 + 4 * d;
      const int64_t at = rest % dim[0];
      rest /= dim[0];
      c += at * dim[1];
      a += at * dim[2];
      b += at * dim[3];
    }
    if (k == 0) {
      for (int64_t j = 0; j < batch; j++) {
        for (int64_t row = 0; row < m; row++) {
          const cuda::DevicePointer start = address(c + (dims ? j * inner[1] : 0) + row * ldc * itemsize);
          if (const cuda::Result result = driver_.fill(start, 0, static_cast<size_t>(n * itemsize), queue.stream)) return result;
        }
      }
      continue;
    }
    const int im = static_cast<int>(m), in = static_cast<int>(n), ik = static_cast<int>(k), algorithm = -1;
    if (batch == 1) {
      if (blas_.gemm(queue.blas, op_b, op_a, in, im, ik, alpha, b, type, static_cast<int>(ldb), a, type,
                     static_cast<int>(lda), beta, c, type, static_cast<int>(ldc), compute, algorithm))
        return cuda::kBlasFailed;
      continue;
    }
    for (int64_t j = 0; j < batch; j += kMostProducts) {
      const int count = static_cast<int>(std::min(batch - j, kMostProducts));
      if (blas_.gemm_batched(queue.blas, op_b, op_a, in, im, ik, alpha, b + j * inner[3], type, static_cast<int>(ldb),
                             inner[3] / itemsize, a + j * inner[2], type, static_cast<int>(lda), inner[2] / itemsize, beta,
                             c + j * inner[1], type, static_cast<int>(ldc), inner[1] / itemsize, count, compute, algorithm))
        return cuda::kBlasFailed;
    }
  }
  return cuda::kSuccess;
}

// A GPU whose streams wait for work of the lost one goes with it: nothing says that such a wait ever ends.
void CudaStreams::lose(Gpu& gpu, cuda::Result result, Gpu* culprit) {
  if (gpu.lost) return;
  losses_++;
  gpu.lost = result;
  gpu.culprit = culprit;
  for (size_t i = 0; i < streams_.size(); i++) {
    Gpu& other = *queues_[i].gpu;
    for (size_t k = 0; k < streams_[i].clock.size() && !other.lost; k++) {
      if (queues_[k].gpu == &gpu && streams_[i].clock[k] > streams_[k].completed) lose(other, result, culprit ? culprit : &gpu);
    }
  }
}

int32_t CudaStreams::refused(cuda::Result result, int64_t* details) {
  details[0] = result;
  details[1] = executor_.intern(problem_of(result));
  return kRefused;
}

std::string CudaStreams::problem_of(cuda::Result result) {
  return result == cuda::kBlasFailed ? "cuBLAS refused the product" : cuda::describe(driver_, result);
}

void CudaStreams::enqueue_task(uint16_t stream, uint32_t slot, Prepared prepared) {
  Queue& queue = queues_[stream];
  Launch launch;
  launch.slot = slot;
  launch.stream = stream;
  launch.position = streams_[stream].launched;
  launch.order = ++orders_;
  launch.begin_ns = Executor::now_ns();
  launch.prepared = std::move(prepared);
  // What poisons its operands now may be healed by a launch before it: it runs, and is judged when it is done.
  if (queue.gpu->lost) {
  } else if (launch.prepared.refused_bytes) {
    launch.code = kOutOfMemory;
    launch.details[0] = launch.prepared.refused_bytes;
  } else if (const CudaGraph* graph = graph_of(*executor_.slot(slot).body); graph && graph->addresses != launch.prepared.data) {
    launch.code = kMoved;
  } else {
    launch.error = reinterpret_cast<int64_t*>(errors_.allocate(kErrorBytes));
    if (!launch.error) {
      launch.code = refused(cuda::kOutOfMemory, launch.details);
    } else {
      std::memset(launch.error, 0, kErrorBytes);
      if (executor_.tracing() && !captures(stream)) launch.base_ns = start_clock(*queue.gpu);
      else if (!executor_.tracing()) queue.gpu->base_ns = 0;
      if (launch.base_ns) launch.before = record_time(queue);
      const cuda::Result result = enqueue(stream, slot, launch.prepared, launch.error);
      launch.enqueued = !result;
      if (launch.base_ns && !result) launch.after = record_time(queue);
      if (result && cuda::is_sticky(result)) lose(*queue.gpu, result);
      else if (result) launch.code = refused(result, launch.details);
    }
  }
  if (captures(stream)) {
    launch.graph = capture_->graph.get();
    if (launch.error) {
      const Task& task = executor_.slot(slot);
      launch.graph->steps.push_back({task.body, task.sequence.load(std::memory_order_relaxed), task.site, launch.error});
    }
    capture_->launched++;
    room_.notify_all();
  }
  queue.launches.push_back(std::move(launch));
  if (unfinished_++ == 0) work_.notify_one();
  if (!captures(stream) && streams_[stream].launched >= streams_[stream].event_position + kLaunchesPerEvent) record_event(stream);
}

cuda::Result CudaStreams::new_event(Gpu& gpu, cuda::Handle* event) {
  if (gpu.events.empty()) return driver_.event_create(event, cuda::kEventDisableTiming);
  *event = gpu.events.back();
  gpu.events.pop_back();
  return cuda::kSuccess;
}

void CudaStreams::enqueue_record(uint16_t stream, uint64_t) {
  Queue& queue = queues_[stream];
  Gpu& gpu = *queue.gpu;
  if (gpu.lost) return;
  use(gpu);
  cuda::Handle event = nullptr;
  cuda::Result result = new_event(gpu, &event);
  if (!result) result = driver_.event_record(event, queue.stream);
  if (result) {
    lose(gpu, result);
    return;
  }
  queue.last_event = event;
  if (captures(stream)) capture_->events.push_back(event);
  else queue.marks.push_back({event, streams_[stream].event_position, streams_[stream].event_clock});
}

// What waits for a lost GPU fails with it, or needs nothing of it: it does not wait, and its stream does not come after what
// the lost one came after.
bool CudaStreams::enqueue_wait(uint16_t stream, uint16_t source, uint64_t) {
  Gpu &own = *queues_[stream].gpu, &far = *queues_[source].gpu;
  if (own.lost || far.lost) return false;
  const cuda::Handle event = queues_[source].last_event;
  use(own);
  const cuda::Result result = driver_.stream_wait_event(queues_[stream].stream, event, 0);
  if (!result) return true;
  use(far);  // whose error is it?
  const cuda::Result theirs = &far == &own ? cuda::kNotReady : driver_.event_query(event);
  if (theirs && theirs != cuda::kNotReady) lose(far, theirs);
  else lose(own, result);
  return false;
}

// ---- the end of launches

void CudaStreams::take(uint16_t stream, uint64_t position, std::vector<Launch>& out) {
  std::deque<Launch>& launches = queues_[stream].launches;
  while (!launches.empty() && launches.front().position <= position) {
    out.push_back(std::move(launches.front()));
    if (queues_[stream].gpu->lost) out.back().lost = queues_[stream].gpu;
    launches.pop_front();
  }
  streams_[stream].completed = std::max(streams_[stream].completed, position);
}

// Takes what is known to be complete on a stream, and what that came after on others.
void CudaStreams::take_complete(uint16_t stream, std::vector<Launch>& out) {
  Queue& queue = queues_[stream];
  Gpu& gpu = *queue.gpu;
  if (!gpu.lost && captures(stream)) return;
  if (!gpu.lost && !queue.launches.empty() && queue.marks.empty()) record_event(stream);
  while (!gpu.lost && !queue.marks.empty()) {
    use(gpu);
    const cuda::Result result = driver_.event_query(queue.marks.front().event);
    if (result == cuda::kNotReady) return;
    if (result) {
      lose(gpu, result);
      break;
    }
    Mark mark = std::move(queue.marks.front());
    queue.marks.pop_front();
    for (size_t i = 0; i < mark.clock.size(); i++) {
      if (mark.clock[i]) take(static_cast<uint16_t>(i), mark.clock[i], out);
    }
    take(stream, mark.position, out);
    gpu.events.push_back(mark.event);
  }
  if (gpu.lost) take(stream, streams_[stream].launched, out);
}

// What a lost GPU fails with: once, with the operation and the line of this launch.
void CudaStreams::blame(Gpu& gpu, const Launch& launch) {
  if (gpu.failure) return;
  const int64_t details[4] = {gpu.lost, executor_.intern(cuda::describe(driver_, gpu.lost))};
  gpu.failure = executor_.fail(launch.slot, kDeviceFault, details);
}

void CudaStreams::conclude(Launch& launch, Worker* worker) {
  std::shared_ptr<Failure> failure;
  CudaGraph* const replayed = graph_of(*executor_.slot(launch.slot).body);
  const CudaGraph::Step* wrong = replayed ? replayed->take_error(launch.code, launch.details) : nullptr;
  if (executor_.poisoned(launch.slot)) {  // that is why it fails
  } else if (wrong) {
    failure = executor_.fail_as(wrong->body, launch.slot, wrong->site, launch.code, launch.details);
  } else if (launch.code) {
    failure = executor_.fail(launch.slot, launch.code, launch.details);
  } else if (launch.lost) {
    Gpu& first = launch.lost->culprit ? *launch.lost->culprit : *launch.lost;
    blame(first, launch);
    failure = first.failure;
  } else if (launch.error && launch.error[0]) {
    failure = executor_.fail(launch.slot, static_cast<int32_t>(launch.error[0]), launch.error + 1);
  }
  unstage(launch.slot, launch.prepared, !failure && !launch.lost && launch.enqueued, launch.lost);
  if (launch.graph) {  // which keeps the words for its runs
    if (launch.code || launch.lost) {
      launch.graph->incomplete = true;
      if (!launch.graph->failure) launch.graph->failure = failure;
    }
    if (launch.error) std::memset(launch.error, 0, kErrorBytes);
  } else if (launch.error && !launch.lost) {
    give_back_error(launch.error);
  }
  const auto [begin, end] = executor_.tracing() ? times(launch) : std::pair<int64_t, int64_t>();
  executor_.conclude(launch.slot, std::move(failure), worker, launch.stream, begin, end);
}

void CudaStreams::main() {
  Worker* worker = executor_.current_worker();
  std::vector<Launch> done;
  int idle = 0;
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    work_.wait(lock, [this] { return stop_ || unfinished_ > 0; });
    if (stop_) return;  // whatever is left is dropped: the engine has waited for it already, or given up
    int losses;
    do {  // all that a lost GPU had under way at once
      losses = losses_;
      for (uint16_t i = 0; i < streams_.size(); i++) take_complete(i, done);
    } while (losses != losses_);
    ends_.resize(queues_.size());
    lock.unlock();
    if (done.empty()) {
      // A tiny kernel takes some microseconds; whoever waits longer than a few of them must not keep a core.
      if (++idle < 100) relax();
      else std::this_thread::sleep_for(std::chrono::microseconds(idle < 1000 ? 10 : 100));
      lock.lock();
      continue;
    }
    idle = 0;
    std::sort(done.begin(), done.end(), [](const Launch& a, const Launch& b) { return a.order < b.order; });
    for (const Launch& launch : done) {  // before a GPU that waited for it
      if (launch.lost && !launch.lost->culprit && !launch.code && !executor_.poisoned(launch.slot)) blame(*launch.lost, launch);
    }
    for (Launch& launch : done) {
      conclude(launch, worker);
      executor_.hand_over(worker);
    }
    executor_.flush(worker);
    lock.lock();
    unfinished_ -= done.size();
    for (const Launch& launch : done) {
      if (launch.graph) launch.graph->concluded++;
      for (cuda::Handle event : {launch.before, launch.after}) {
        if (event) queues_[launch.stream].gpu->timed_events.push_back(event);
      }
    }
    concluded_++;
    done.clear();
    room_.notify_all();
  }
}

// ---- times, for traces

// Gives an event of the GPU a time of the host, and returns it: the one before it was recorded, so that nothing is told
// too late. 0: that failed.
int64_t CudaStreams::start_clock(Gpu& gpu) {
  if (gpu.base_ns) return gpu.base_ns;
  use(gpu);
  if (!gpu.base && driver_.event_create(&gpu.base, cuda::kEventDefault)) return 0;
  const int64_t now = Executor::now_ns();
  if (driver_.event_record(gpu.base, gpu.own_stream) || driver_.stream_synchronize(gpu.own_stream)) return 0;
  return gpu.base_ns = now;
}

cuda::Handle CudaStreams::record_time(Queue& queue) {
  use(*queue.gpu);
  std::vector<cuda::Handle>& events = queue.gpu->timed_events;
  cuda::Handle event = nullptr;
  if (!events.empty()) {
    event = events.back();
    events.pop_back();
  } else if (driver_.event_create(&event, cuda::kEventDefault)) {
    return nullptr;
  }
  if (!driver_.event_record(event, queue.stream)) return event;
  events.push_back(event);
  return nullptr;
}

// When a launch began and ended. Its length is the GPU's own; it is moved to where what it came after had ended.
std::pair<int64_t, int64_t> CudaStreams::times(const Launch& launch) {
  const Gpu& gpu = *queues_[launch.stream].gpu;
  const int64_t now = Executor::now_ns();
  int64_t earliest = std::max(launch.begin_ns, ends_[launch.stream].of(launch.position - 1));
  for (auto [stream, position] : executor_.arguments(launch.slot).stream->waits)
    earliest = std::max(earliest, ends_[stream].of(position));
  int64_t begin = earliest, end = now;
  float whole = 0, since = 0;  // in milliseconds
  use(gpu);
  if (launch.before && launch.after && !launch.lost && !driver_.event_elapsed(&whole, launch.before, launch.after) &&
      !driver_.event_elapsed(&since, gpu.base, launch.before)) {
    begin = std::max(earliest, launch.base_ns + static_cast<int64_t>(since * 1e6));
    end = std::min(now, begin + static_cast<int64_t>(whole * 1e6));
  }
  Ends& ends = ends_[launch.stream];
  if (ends.first + ends.at.size() != launch.position) ends = {launch.position, {}};
  ends.at.push_back(end);
  return {std::min(begin, end), end};
}

// ---- the serial engine

int32_t CudaStreams::run_here(uint32_t slot, char** data, int64_t* details) {
  const Task& task = executor_.slot(slot);
  Prepared prepared;
  prepared.data.assign(data, data + task.body->operands.size());
  stage(slot, prepared);
  if (prepared.refused_bytes) {
    details[0] = prepared.refused_bytes;
    return kOutOfMemory;
  }
  auto* error = reinterpret_cast<int64_t*>(errors_.allocate(kErrorBytes));
  uint16_t stream = 0;
  cuda::Result result = error ? cuda::kSuccess : cuda::kOutOfMemory;
  {
    std::lock_guard<std::mutex> guard(mutex_);
    while (streams_[stream].device != task.device) stream++;
    if (!result) result = queues_[stream].gpu->lost;
    if (!result) {
      std::memset(error, 0, kErrorBytes);
      result = enqueue(stream, slot, prepared, error);
    }
  }
  const Queue& queue = queues_[stream];
  use(*queue.gpu);
  if (!result) result = driver_.stream_synchronize(queue.stream);
  int32_t code = 0;
  if (result) {
    code = refused(result, details);
    if (cuda::is_sticky(result)) {
      std::lock_guard<std::mutex> guard(mutex_);
      lose(*queue.gpu, result);
      code = kDeviceFault;
    }
  } else if (error[0]) {
    code = static_cast<int32_t>(error[0]);
    std::copy(error + 1, error + 5, details);
  }
  unstage(slot, prepared, !code, code == kDeviceFault);
  if (error && code != kDeviceFault) give_back_error(error);
  return code;
}

}  // namespace dagrun
