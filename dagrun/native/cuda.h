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
  static constexpr int kMostOperands = 12, kMostParams = 112, kMostScalars = 8;
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
  std::vector<cuda::Handle> events;   // not in use
  std::unique_ptr<MemorySource> memory;
  cuda::Result lost = cuda::kSuccess;  // the error that ended its context
  Gpu* culprit = nullptr;              // the GPU that this one waited for when that was lost
  std::shared_ptr<Failure> failure;    // what everything unfinished and everything later on it fails with
};

// Guarantees, beside those of Streams:
//   - A task is done only when an event recorded behind it was seen to be complete, and after everything that its launch
//     waited for: launches are concluded in the order in which they were made.
//   - One event stands for all launches since the one before it: no launch costs an event of its own.
//   - After an error that ends a context every unfinished task of that GPU fails, and every later one; none hangs.
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

  int32_t run_here(uint32_t slot, char** data, int64_t* details) override;
  char* wait_for_memory(Device* device, int64_t nbytes) override { return allocate(device->memory, nbytes); }

 protected:
  Prepared prepare(uint32_t slot) override;
  void enqueue_task(uint16_t stream, uint32_t slot, Prepared prepared) override;
  void enqueue_record(uint16_t stream, uint64_t event) override;
  void enqueue_wait(uint16_t stream, uint16_t source, uint64_t event) override;

 private:
  static constexpr uint64_t kLaunchesPerEvent = 32;

  // A launch that is not concluded.
  struct Launch {
    uint32_t slot = 0;
    uint16_t stream = 0;
    uint64_t position = 0, order = 0;
    int64_t begin_ns = 0;
    int64_t* error = nullptr;  // five words that the kernel may write: code, then details
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

  Gpu* gpu(int ordinal, std::string& problem);
  void use(const Gpu& gpu) { driver_.set_current(gpu.context); }
  char* allocate(Allocator& memory, int64_t nbytes);  // waits for launches that may give memory back
  bool is_device_memory(const Buffer* buffer) const { return buffer->device->streams == this; }
  void stage(uint32_t slot, Prepared& prepared);
  void unstage(uint32_t slot, Prepared& prepared, bool good);
  cuda::Result enqueue(Queue& queue, uint32_t slot, const Prepared& prepared, int64_t* error);
  cuda::Result enqueue_copy(Queue& queue, uint32_t slot, const Prepared& prepared);
  cuda::Result enqueue_product(Queue& queue, const Body& body, char* const* data);
  cuda::Result make_blas(Queue& queue);
  void lose(Gpu& gpu, cuda::Result result, Gpu* culprit = nullptr);
  int32_t refused(cuda::Result result, int64_t* details);
  void take(uint16_t stream, uint64_t position, std::vector<Launch>& out);
  void take_complete(uint16_t stream, std::vector<Launch>& out);
  void conclude(Launch& launch, Worker* worker);
  void main();

  cuda::Driver driver_{};
  cuda::Blas blas_{};
  std::string blas_problem_;
  int gpu_count_ = 0;
  std::vector<std::unique_ptr<Gpu>> gpus_;
  std::deque<Queue> queues_;  // by stream
  std::unique_ptr<MemorySource> pinned_;
  Allocator staging_, errors_;  // pinned memory
  uint64_t orders_ = 0;
  uint64_t unfinished_ = 0;   // launches that are not concluded
  uint64_t concluded_ = 0;    // batches of them that are
  // For traces: when the host learned that the last launch on each stream was done. The concluding thread's.
  std::vector<int64_t> ended_;
  bool stop_ = false;
  std::condition_variable work_, room_;
  std::thread thread_;
};

}  // namespace dagrun
