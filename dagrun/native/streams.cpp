#include "streams.h"

#include <algorithm>
#include <chrono>

#include "executor.h"

namespace dagrun {

void Streams::add_device(uint16_t device, int compute, int copy, int communication) {
  std::lock_guard<std::mutex> guard(mutex_);
  const std::pair<Lane, int> lanes[] = {{kCompute, compute}, {kCopy, copy}, {kCommunication, communication}};
  for (auto [lane, count] : lanes) {
    for (int i = 0; i < count; i++) {
      Stream stream;
      stream.device = device;
      stream.lane = lane;
      streams_.push_back(std::move(stream));
    }
  }
  for (Stream& stream : streams_) stream.clock.resize(streams_.size());
}

void Streams::note_wait(StreamInfo* info, uint16_t stream, uint64_t position) {
  std::lock_guard<std::mutex> guard(mutex_);
  info->waits.emplace_back(stream, position);
}

StreamStats Streams::stats() {
  std::lock_guard<std::mutex> guard(mutex_);
  return {streams_.size(), launches_, next_event_ - 1, waits_};
}

// The first ready child inherits its parent's stream (its edge then costs nothing), others take an idle stream.
uint16_t Streams::choose(const Task& task, const StreamInfo& info) {
  for (auto [stream, position] : info.waits) {
    const Stream& s = streams_[stream];
    if (s.device == task.device && s.lane == task.lane && s.launched == position) return stream;
  }
  std::vector<uint16_t> candidates;
  for (uint16_t i = 0; i < streams_.size(); i++) {
    const Stream& s = streams_[i];
    if (s.device != task.device || s.lane != task.lane) continue;
    if (s.launched == s.completed) return i;
    candidates.push_back(i);
  }
  return candidates[round_robin_++ % candidates.size()];
}

void Streams::wait_for(uint16_t stream, uint16_t other, uint64_t position) {
  if (other == stream || streams_[stream].clock[other] >= position) return;
  Stream& source = streams_[other];
  if (source.completed >= position) return;  // done: nothing to wait for
  if (source.event_position < position) record_event(other);
  if (!enqueue_wait(stream, other, source.event)) return;
  waits_++;
  std::vector<uint64_t>& clock = streams_[stream].clock;
  for (size_t i = 0; i < source.event_clock.size(); i++) clock[i] = std::max(clock[i], source.event_clock[i]);
  clock[other] = std::max(clock[other], source.event_position);
}

void Streams::record_event(uint16_t index) {
  Stream& stream = streams_[index];
  stream.event = next_event_++;
  stream.event_position = stream.launched;
  stream.event_clock = stream.clock;
  enqueue_record(index, stream.event);
}

Prepared Streams::prepare(uint32_t slot) {
  Prepared prepared;
  const Body* body = executor_.slot(slot).body;
  prepared.data.resize(body->operands.size());
  prepared.refused_bytes = executor_.resolve(body, executor_.arguments(slot).operands, prepared.data.data());
  return prepared;
}

void Streams::launch(uint32_t slot, Worker* worker) {
  Prepared prepared = prepare(slot);
  std::lock_guard<std::mutex> guard(mutex_);
  Task& task = executor_.slot(slot);
  Arguments& arguments = executor_.arguments(slot);
  const uint16_t stream = choose(task, *arguments.stream);
  for (auto [other, position] : arguments.stream->waits) wait_for(stream, other, position);
  arguments.stream_index = stream;
  arguments.position = ++streams_[stream].launched;
  launches_++;
  enqueue_task(stream, slot, std::move(prepared));
  executor_.walk_launched(slot, worker);
}

// ---- the simulated device

SimulatedStreams::SimulatedStreams(Executor& executor, uint64_t seed)
    : Streams(executor), random_(seed * 0x9E3779B97F4A7C15ULL + 1), thread_([this] { main(); }) {}

void SimulatedStreams::stop() {
  {
    std::lock_guard<std::mutex> guard(mutex_);
    stop_ = true;
  }
  cv_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void SimulatedStreams::enqueue(uint16_t stream, Command command) {
  if (queues_.size() < streams_.size()) queues_.resize(streams_.size());
  command.order = ++orders_;
  queues_[stream].push_back(std::move(command));
  queued_++;
  cv_.notify_one();
}

void SimulatedStreams::enqueue_task(uint16_t stream, uint32_t slot, Prepared prepared) {
  Command command;
  command.kind = Command::kTask;
  command.slot = slot;
  command.prepared = std::move(prepared);
  enqueue(stream, std::move(command));
}

void SimulatedStreams::enqueue_record(uint16_t stream, uint64_t event) {
  Command command;
  command.kind = Command::kRecord;
  command.event = event;
  enqueue(stream, std::move(command));
}

bool SimulatedStreams::enqueue_wait(uint16_t stream, uint16_t, uint64_t event) {
  Command command;
  command.kind = Command::kWait;
  command.event = event;
  enqueue(stream, std::move(command));
  return true;
}

bool SimulatedStreams::runnable(const Command& command) const {
  if (command.kind != Command::kWait) return true;
  const uint64_t word = command.event / 64;
  return word < reached_.size() && (reached_[word] >> (command.event % 64) & 1);
}

// Any stream whose first command may run; every other time the one enqueued last, so that a missing wait shows.
int SimulatedStreams::pick() {
  random_ ^= random_ << 13;
  random_ ^= random_ >> 7;
  random_ ^= random_ << 17;
  int chosen = -1;
  uint64_t seen = 0;
  const bool newest = random_ >> 63;
  for (size_t i = 0; i < queues_.size(); i++) {
    if (queues_[i].empty() || !runnable(queues_[i].front())) continue;
    seen++;
    if (chosen < 0 || (newest ? queues_[i].front().order > queues_[chosen].front().order : random_ % seen == 0))
      chosen = static_cast<int>(i);
  }
  return chosen;
}

void SimulatedStreams::main() {
  std::unique_lock<std::mutex> lock(mutex_);
  Worker* worker = nullptr;
  uint64_t held_for = 0;
  for (;;) {
    cv_.wait(lock, [this] { return stop_ || queued_ > 0; });
    if (stop_) return;  // whatever is queued is dropped: the engine has waited for it already, or given up
    if (!worker) worker = executor_.current_worker();
    // Start late: let more be enqueued, so that whatever lacks a wait has the chance to overtake.
    if (queued_ < 24 && held_for != orders_) {
      held_for = orders_;
      cv_.wait_for(lock, std::chrono::microseconds(60));
      continue;
    }
    const int stream = pick();
    if (stream < 0) {
      cv_.wait(lock);  // every head waits for an event: only a new command can change that
      continue;
    }
    Command command = std::move(queues_[stream].front());
    queues_[stream].pop_front();
    queued_--;
    if (command.kind == Command::kRecord) {
      if (reached_.size() <= command.event / 64) reached_.resize(command.event / 64 + 1);
      reached_[command.event / 64] |= 1ULL << (command.event % 64);
    } else if (command.kind == Command::kTask) {
      const uint64_t position = executor_.arguments(command.slot).position;
      lock.unlock();
      executor_.execute(command.slot, command.prepared.data.data(), command.prepared.refused_bytes, worker, stream);
      executor_.hand_over(worker);
      lock.lock();
      streams_[stream].completed = position;
    }
  }
}

}  // namespace dagrun
