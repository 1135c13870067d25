// Devices that run work on streams: which stream a task takes, which events it waits for, and the simulated device.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "task.h"

namespace dagrun {

class Executor;
struct Device;
struct Worker;

// What a streamed task has to wait for: positions in other streams. Under the lock of its Streams.
struct StreamInfo {
  std::vector<std::pair<uint16_t, uint64_t>> waits;
};

struct StreamStats {
  uint64_t streams = 0, launches = 0, events = 0, waits = 0;
};

// What a launch needs beside its task: where its operands lie, and what was refused.
struct Prepared {
  std::vector<char*> data;
  int64_t refused_bytes = 0;
  char* staging = nullptr;  // pinned memory on the way between the CPU and a GPU, with its size
  int64_t staging_bytes = 0;
};

// Guarantees:
//   - A task is enqueued only after all its predecessors on streams were enqueued and all others are done.
//   - Before it, its stream is made to wait for every predecessor on another stream not yet known to precede it.
//   - An event is recorded only when some stream, or the host, has to wait; same-stream edges cost nothing.
class Streams {
 public:
  explicit Streams(Executor& executor) : executor_(executor) {}
  virtual ~Streams() = default;

  void add_device(uint16_t device, int compute, int copy, int communication);
  void launch(uint32_t slot, Worker* worker);
  void note_wait(StreamInfo* info, uint16_t stream, uint64_t position);
  StreamStats stats();
  // Runs the body of a task of the serial engine, to its end; returns its code.
  virtual int32_t run_here(uint32_t, char**, int64_t*) { return 0; }
  // Memory that the device's allocator refused: waits for enqueued work that may free some. nullptr: there is none.
  virtual char* wait_for_memory(Device*, int64_t) { return nullptr; }
  virtual void stop() = 0;

 protected:
  struct Stream {
    uint16_t device;
    Lane lane;
    uint64_t launched = 0;   // position of the last task enqueued
    uint64_t completed = 0;  // position of the last task known to be done
    std::vector<uint64_t> clock;        // per stream: the position that everything enqueued here comes after
    uint64_t event_position = 0;        // what the last event on this stream covers
    uint64_t event = 0;
    std::vector<uint64_t> event_clock;  // this stream's clock when that event was recorded
  };

  // Makes ready what the launch needs; may block. Not under mutex_.
  virtual Prepared prepare(uint32_t slot);
  // The device's side, called under mutex_. A wait is for the last event recorded on `source`.
  virtual void enqueue_task(uint16_t stream, uint32_t slot, Prepared prepared) = 0;
  virtual void enqueue_record(uint16_t stream, uint64_t event) = 0;
  virtual bool enqueue_wait(uint16_t stream, uint16_t source, uint64_t event) = 0;  // false: it waits for nothing
  void record_event(uint16_t stream);

  Executor& executor_;
  std::mutex mutex_;
  std::vector<Stream> streams_;

 private:
  uint16_t choose(const Task& task, const StreamInfo& info);
  void wait_for(uint16_t stream, uint16_t other, uint64_t position);

  uint64_t next_event_ = 1;
  uint64_t launches_ = 0, waits_ = 0;
  uint32_t round_robin_ = 0;
};

// A device that obeys stream and event semantics on the CPU and is otherwise as hostile as they allow: among the
// commands that may run next it picks in a seeded order, often the newest, and it starts late. Freed memory is overwritten.
class SimulatedStreams : public Streams {
 public:
  SimulatedStreams(Executor& executor, uint64_t seed);
  ~SimulatedStreams() override { stop(); }
  void stop() override;

 protected:
  void enqueue_task(uint16_t stream, uint32_t slot, Prepared prepared) override;
  void enqueue_record(uint16_t stream, uint64_t event) override;
  bool enqueue_wait(uint16_t stream, uint16_t source, uint64_t event) override;

 private:
  struct Command {
    enum Kind : uint8_t { kTask, kRecord, kWait } kind = kTask;
    uint32_t slot = 0;
    uint64_t event = 0;
    uint64_t order = 0;
    Prepared prepared;
  };
  void enqueue(uint16_t stream, Command command);
  bool runnable(const Command& command) const;
  int pick();
  void main();

  std::vector<std::deque<Command>> queues_;
  std::vector<uint64_t> reached_;  // events whose record command ran, a bit each
  uint64_t orders_ = 0;
  size_t queued_ = 0;
  uint64_t random_;
  bool stop_ = false;
  std::condition_variable cv_;
  std::thread thread_;
};

}  // namespace dagrun
