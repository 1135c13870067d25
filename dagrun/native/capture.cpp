// The launches of one device captured into a graph, and its end.
//
// Launches come from whichever worker made a task ready, so the capture is relaxed: the other modes hold for one thread.
// All streams of the device fork from one and join it again; between, events only say what comes after what.
#include <algorithm>
#include <cstring>

#include "cuda.h"

namespace dagrun {

namespace {
constexpr int kErrorWords = 5;
}

const CudaGraph::Step* CudaGraph::take_error(int32_t& code, int64_t* details) {
  const Step* first = nullptr;
  for (const Step& step : steps) {
    if (step.error[0] && (!first || step.sequence < first->sequence)) first = &step;
  }
  if (!first) return nullptr;
  code = static_cast<int32_t>(first->error[0]);
  std::copy(first->error + 1, first->error + kErrorWords, details);
  for (const Step& step : steps) std::memset(step.error, 0, kErrorWords * sizeof(int64_t));
  return first;
}

cuda::Result CudaStreams::order(uint16_t before, uint16_t after) {
  cuda::Handle event = nullptr;
  if (const cuda::Result result = new_event(*queues_[before].gpu, &event)) return result;
  capture_->events.push_back(event);
  if (const cuda::Result result = driver_.event_record(event, queues_[before].stream)) return result;
  return driver_.stream_wait_event(queues_[after].stream, event, 0);
}

// The products of a graph run beside those of any stream, so not in a stream's workspace. Steps on one stream follow each other.
cuda::Result CudaStreams::own_workspace(uint16_t stream) {
  CudaGraph& graph = *capture_->graph;
  for (auto [known, workspace] : graph.workspaces) {
    if (known == stream) return cuda::kSuccess;
  }
  char* workspace = graph.device->memory.allocate(kWorkspaceBytes);
  if (!workspace) return cuda::kOutOfMemory;
  graph.workspaces.emplace_back(stream, workspace);
  return blas_.set_workspace(queues_[stream].blas, workspace, kWorkspaceBytes) ? cuda::kBlasFailed : cuda::kSuccess;
}

std::string CudaStreams::begin_capture(Device* device) {
  std::lock_guard<std::mutex> guard(mutex_);
  uint16_t origin = 0;
  while (streams_[origin].device != device->index || streams_[origin].lane != kCompute) origin++;
  Gpu& gpu = *queues_[origin].gpu;
  use(gpu);
  cuda::Result result = gpu.lost;
  for (uint16_t i = 0; i < streams_.size() && !result; i++) {  // making a handle allocates and waits: not within the capture
    const bool computes = streams_[i].device == device->index && streams_[i].lane == kCompute;
    if (computes && blas_problem_.empty() && !queues_[i].blas && make_blas(queues_[i])) break;  // a product will be refused
  }
  if (!result) result = driver_.begin_capture(queues_[origin].stream, cuda::kCaptureRelaxed);
  if (result) return problem_of(result);
  capture_ = std::make_unique<Capture>();
  capture_->device = device;
  capture_->origin = origin;
  capture_->graph = std::make_unique<CudaGraph>();
  capture_->graph->device = device;
  capture_->graph->gpu = &gpu;
  for (uint16_t i = 0; i < streams_.size() && !result; i++) {
    if (captures(i) && i != origin) result = order(origin, i);
  }
  if (!result) return "";
  cuda::Handle graph = nullptr;
  if (!driver_.end_capture(queues_[origin].stream, &graph) && graph) driver_.graph_destroy(graph);
  capture_.reset();
  return problem_of(result);
}

// Joins the streams, makes the graph and starts its first run. The capture ends on the driver's side whatever fails.
cuda::Result CudaStreams::finish_capture(CudaGraph& made) {
  const uint16_t origin = capture_->origin;
  const cuda::Handle stream = queues_[origin].stream;
  use(*made.gpu);
  cuda::Result result = made.gpu->lost;
  for (uint16_t i = 0; i < streams_.size() && !result; i++) {
    if (captures(i) && i != origin) result = order(i, origin);
  }
  cuda::Handle graph = nullptr;
  const cuda::Result ended = driver_.end_capture(stream, &graph);
  if (!result) result = ended;
  size_t nodes = 0;
  if (!result) result = driver_.graph_nodes(graph, nullptr, &nodes);
  if (!result) result = driver_.graph_instantiate(&made.executable, graph, 0);
  if (graph) driver_.graph_destroy(graph);  // the executable one needs it no more
  if (!result) result = driver_.graph_launch(made.executable, stream);
  made.nodes = nodes;
  return result;
}

std::unique_ptr<CudaGraph> CudaStreams::end_capture(uint64_t tasks) {
  std::unique_lock<std::mutex> lock(mutex_);
  room_.wait(lock, [&] { return capture_->launched == tasks; });
  std::unique_ptr<CudaGraph> made = std::move(capture_->graph);
  Gpu& gpu = *made->gpu;
  const uint16_t origin = capture_->origin;
  const cuda::Result result = finish_capture(*made);
  if (result && cuda::is_sticky(result)) lose(gpu, result);
  for (auto [i, own] : made->workspaces) {
    if (!gpu.lost) blas_.set_workspace(queues_[i].blas, queues_[i].workspace, kWorkspaceBytes);
  }
  Stream& stream = streams_[origin];
  for (uint16_t i = 0; i < streams_.size(); i++) {
    if (!captures(i)) continue;
    // One event behind the graph stands for all launches that it made.
    if (stream.clock[i] < streams_[i].launched) stream.clock[i] = streams_[i].launched;
    for (Launch& launch : queues_[i].launches) {
      if (result && !gpu.lost && !launch.code) launch.code = refused(result, launch.details);  // it never ran
    }
  }
  if (!gpu.lost) gpu.events.insert(gpu.events.end(), capture_->events.begin(), capture_->events.end());
  capture_.reset();
  if (tasks && !gpu.lost) record_event(origin);
  room_.wait(lock, [&] { return made->concluded == tasks; });
  return made;
}

void CudaStreams::destroy(CudaGraph& graph) {
  std::lock_guard<std::mutex> guard(mutex_);
  if (graph.gpu->lost) return;  // nothing can be given back, and its kernels may still write
  use(*graph.gpu);
  if (graph.executable) driver_.executable_destroy(graph.executable);
  for (const CudaGraph::Step& step : graph.steps) give_back_error(step.error);
  for (auto [stream, workspace] : graph.workspaces) graph.device->memory.release(workspace, kWorkspaceBytes);
}

}  // namespace dagrun
