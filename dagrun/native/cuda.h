// CUDA devices: the streams of one or more GPUs, fed without the GIL. What a stream has to wait for is decided in Streams.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "driver.h"
#include "executor.h"
#include "streams.h"

namespace dagrun {

// The one argument of every kernel: what a CPU body gets, by value. `kernels/cuda/dagrun.cuh` has the same.
struct KernelCall {
  static constexpr int kMostOperands = 12, kMostParams = 112, kMostScalars = 12;
  char* data[kMostOperands];
  int64_t params[kMostParams];
  uint64_t scalars[kMostScalars];
  int64_t* error;
};

// What is known of one GPU, whatever the number of devices that stand for it. Under the lock of its CudaStreams.
struct Gpu {
  int ordinal = 0;
  cuda::Handle context = nullptr;
  cuda::Handle own_stream = nullptr;  // copies and fills that the host waits for
  std::vector<cuda::Handle> events;        // not in use
  std::vector<cuda::Handle> timed_events;  // likewise, of those that carry times
  cuda::Handle base = nullptr;  // an event with a time of the host: all times of this GPU count from it
  int64_t base_ns = 0;          // 0: none for this trace yet
  std::unique_ptr<MemorySource> memory;
  cuda::Result lost = cuda::kSuccess;  // the error that ended its context
  Gpu* culprit = nullptr;              // the GPU that this one waited for when that was lost
  std::shared_ptr<Failure> failure;    // what everything unfinished and everything later on it fails with
};

// A program's launches, captured while they were made, to be made again at once. Made by `capture.cpp`.
struct CudaGraph {
  struct Step {
    const Body* body;
    uint64_t sequence;
    uint32_t site;
    int64_t* error;  // the words that its kernel writes in every run, see KernelCall
  };
  Device* device = nullptr;
  Gpu* gpu = nullptr;
  cuda::Handle executable = nullptr;
  uint64_t nodes = 0, concluded = 0;
  std::vector<Step> steps;
  std::vector<std::pair<uint16_t, char*>> workspaces;  // its own of cuBLAS, and the streams that used them
  std::vector<char*> addresses;      // of the operands of the task that runs it
  bool incomplete = false;           // a launch was refused: the graph is not the program
  std::shared_ptr<Failure> failure;  // the first such launch's; nullptr where it only passed poison on

  // The first step, in program order, that wrote an error since the last call: its code and details, then all are clear.
  const Step* take_error(int32_t& code, int64_t* details);
};

// Guarantees, beside those of Streams:
//   - A task is done only when an event recorded behind it was seen to be complete, and after everything that its launch
//     waited for: launches are concluded in the order in which they were made.
//   - One event stands for all launches since the one before it: no launch costs an event of its own.
//   - After an error that ends a context every unfinished task of that GPU fails, and every later one; none hangs.
//   - While a device is captured its launches run nowhere, and none of its events is asked; at the end they run once.
class CudaStreams : public Streams {
 public:
  // Raises nothing: `problem` says why the driver cannot be used.
  CudaStreams(Executor& executor, const std::string& driver_path, const std::string& blas_path, std::string& problem);
  ~CudaStreams() override { stop(); }
  void stop() override;

  int gpu_count() const { return gpu_count_; }
  std::string gpu_name(int ordinal);
  int64_t gpu_bytes(int ordinal);
  int capability(int ordinal);  // 90 for 9.0
  bool peers(int ordinal, int other);
  std::string blas_problem() const { return blas_problem_; }
  // Adds the streams of a device that stands for a GPU; an empty text, or what failed.
  std::string open(Device* device, int ordinal, int compute, int copy, int communication);
  // A function of a compiled module; nullptr with `problem` set.
  void* load(int ordinal, const char* image, const char* name, uint32_t shared_bytes, std::string& problem);

  // From here on the launches of an idle device make a graph; an empty text, or what failed. One capture at a time.
  std::string begin_capture(Device* device);
  // Ends it when this many tasks were launched, runs the graph, and returns when all of them are done. Blocks.
  std::unique_ptr<CudaGraph> end_capture(uint64_t tasks);
  void destroy(CudaGraph& graph);  // no task that runs it is left

  int32_t run_here(uint32_t slot, char** data, int64_t* details) override;
  char* wait_for_memory(Device* device, int64_t nbytes) override { return allocate(device->memory, nbytes); }

 protected:
  Prepared prepare(uint32_t slot) override;
  void enqueue_task(uint16_t stream, uint32_t slot, Prepared prepared) override;
  void enqueue_record(uint16_t stream, uint64_t event) override;
  bool enqueue_wait(uint16_t stream, uint16_t source, uint64_t event) override;

 private:
  static constexpr uint64_t kLaunchesPerEvent = 32;
  static constexpr int64_t kErrorBytes = 64;
  static constexpr int64_t kWorkspaceBytes = 32 << 20;  // of cuBLAS, for each stream: what NVIDIA advises for Hopper

  // A launch that is not concluded.
  struct Launch {
    uint32_t slot = 0;
    uint16_t stream = 0;
    uint64_t position = 0, order = 0;
    int64_t begin_ns = 0;      // when the host made it
    cuda::Handle before = nullptr, after = nullptr;  // events with times around it, for a trace
    int64_t base_ns = 0;
    int64_t* error = nullptr;  // five words that the kernel may write: code, then details
    CudaGraph* graph = nullptr;  // that it was captured into
    Prepared prepared;
    int32_t code = 0;          // known when it was enqueued
    int64_t details[4] = {};
    bool enqueued = false;     // else it failed before
    Gpu* lost = nullptr;
  };
  struct Mark {  // a recorded event: when it is complete, so is everything up to `clock`
    cuda::Handle event;
    uint64_t position;
    std::vector<uint64_t> clock;
  };
  struct Queue {
    Gpu* gpu = nullptr;
    cuda::Handle stream = nullptr, blas = nullptr;
    char* workspace = nullptr;
    std::deque<Launch> launches;
    std::deque<Mark> marks;
    cuda::Handle last_event = nullptr;
  };

  struct Capture {
    Device* device;
    uint16_t origin;  // the stream that the others fork from and join
    uint64_t launched = 0;
    std::unique_ptr<CudaGraph> graph;
    std::vector<cuda::Handle> events;  // recorded in it: not to be asked, nor used again before its end
  };

  Gpu* gpu(int ordinal, std::string& problem);
  bool captures(uint16_t stream) const { return capture_ && streams_[stream].device == capture_->device->index; }
  cuda::Result order(uint16_t before, uint16_t after);  // within a capture
  cuda::Result new_event(Gpu& gpu, cuda::Handle* event);
  cuda::Result finish_capture(CudaGraph& graph);
  void use(const Gpu& gpu) { driver_.set_current(gpu.context); }
  char* allocate(Allocator& memory, int64_t nbytes);  // waits for launches that may give memory back
  bool is_device_memory(const Buffer* buffer) const { return buffer->device->streams == this; }
  void stage(uint32_t slot, Prepared& prepared);
  void unstage(uint32_t slot, Prepared& prepared, bool good, bool lost);
  cuda::Result enqueue(uint16_t stream, uint32_t slot, const Prepared& prepared, int64_t* error);
  cuda::Result enqueue_copy(Queue& queue, uint32_t slot, const Prepared& prepared);
  cuda::Result enqueue_product(uint16_t stream, const Body& body, char* const* data);
  cuda::Result make_blas(Queue& queue);
  cuda::Result own_workspace(uint16_t stream);  // within a capture
  void lose(Gpu& gpu, cuda::Result result, Gpu* culprit = nullptr);
  int32_t refused(cuda::Result result, int64_t* details);
  std::string problem_of(cuda::Result result);
  void give_back_error(int64_t* words) { errors_.release(reinterpret_cast<char*>(words), kErrorBytes); }
  void take(uint16_t stream, uint64_t position, std::vector<Launch>& out);
  void take_complete(uint16_t stream, std::vector<Launch>& out);
  void blame(Gpu& gpu, const Launch& launch);
  void conclude(Launch& launch, Worker* worker);
  int64_t start_clock(Gpu& gpu);
  cuda::Handle record_time(Queue& queue);
  std::pair<int64_t, int64_t> times(const Launch& launch);
  void main();

  cuda::Driver driver_{};
  cuda::Blas blas_{};
  std::string blas_problem_;
  int gpu_count_ = 0;
  std::vector<std::unique_ptr<Gpu>> gpus_;
  std::deque<Queue> queues_;  // by stream
  std::unique_ptr<Capture> capture_;
  std::unique_ptr<MemorySource> pinned_;
  Allocator staging_, errors_;  // pinned memory
  uint64_t orders_ = 0;
  uint64_t unfinished_ = 0;   // launches that are not concluded
  uint64_t concluded_ = 0;    // batches of them that are
  int losses_ = 0;            // GPUs that are lost
  // For traces, of each stream: when its traced launches ended, from a position on. The concluding thread's.
  struct Ends {
    uint64_t first = 0;
    std::vector<int64_t> at;
    int64_t of(uint64_t position) const { return position - first < at.size() ? at[position - first] : 0; }
  };
  std::vector<Ends> ends_;
  bool stop_ = false;
  std::condition_variable work_, room_;
  std::thread thread_;
};

}  // namespace dagrun
