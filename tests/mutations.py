"""The engine's rules, each broken on purpose: a text of the native sources, and what replaces it in the mutant.

`on` says where a mutant must be caught: "engine" on CPUs and simulated devices, "emulator" on emulated GPUs, "graphs"
by the tests of CUDA graphs and of batches on GPUs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """`file` is in dagrun/native; `old` stands there exactly once."""

    name: str
    file: str
    old: str
    new: str
    on: tuple[str, ...] = ("engine",)


BOTH = ("engine", "emulator")
GPU = ("emulator",)
GRAPHS = ("graphs",)


MUTATIONS = [
    # ---- edges
    Mutation(
        "no edge from a write to a later read",
        "executor.cpp",
        "if (overlaps(write.region, region)) add_edge(index, write, kRAW, edges, trace);",
        "",
    ),
    Mutation(
        "no edge from a read to a later write",
        "executor.cpp",
        "order_after(buffer->reads, kWAR);",
        "buffer->reads.clear();",
    ),
    Mutation(
        "no edge from a write to a later write",
        "executor.cpp",
        "order_after(buffer->writes, kWAW);",
        "buffer->writes.clear();",
    ),
    Mutation(
        "reads are not remembered",
        "executor.cpp",
        "buffer->reads.push_back({region, sequence, index});",
        "",
    ),
    Mutation(
        "a strided box overlaps only what begins in it",
        "region.h",
        "return gap < width_a || gap + width_b > stride;",
        "return gap < width_a;",
    ),
    Mutation(
        "a write takes the place of all that it touches",
        "region.h",
        "if (!outer.stride) return outer.lo <= inner.lo && inner.hi <= outer.hi;",
        "if (!outer.stride) return true;",
    ),
    Mutation(
        "tiny work runs before what it reads is written",
        "executor.cpp",
        "if (pending(buffer->writes, region).slot || ((spec.mode & kWrite) && pending(buffer->reads, region).slot)) "
        "return false;",
        "",
    ),
    # ---- streams
    Mutation(
        "no wait for an event", "streams.cpp", "  if (!enqueue_wait(stream, other, source.event)) return;\n", "", BOTH
    ),
    Mutation(
        "an old event stands for a new one",
        "streams.cpp",
        "if (source.event_position < position) record_event(other);",
        "if (!source.event) record_event(other);",
        BOTH,
    ),
    Mutation(
        "one wait for a stream counts for ever",
        "streams.cpp",
        "clock[other] = std::max(clock[other], source.event_position);",
        "clock[other] = UINT64_MAX;",
        BOTH,
    ),
    Mutation(
        "no wait for what was launched before the edge",
        "executor.cpp",
        "streams->note_wait(arguments(index).stream, launched.stream_index, launched.position);",
        ";",
        BOTH,
    ),
    Mutation(
        "a task is enqueued without what launched before it",
        "executor.cpp",
        "if (launched) arguments(index).stream->waits.emplace_back(launched->stream_index, launched->position);",
        "(void)launched;",
        BOTH,
    ),
    Mutation(
        "a buffer moves under enqueued work",
        "executor.cpp",
        "body->lane == kPython || body->detaches || settings_.serial) return;",
        "body->lane == kPython || settings_.serial) return;",
    ),
    Mutation(
        "what was launched counts as done",
        "streams.cpp",
        "if (source.completed >= position) return;",
        "if (source.launched >= position) return;",
        BOTH,
    ),
    Mutation(
        "any stream of the lane will do",
        "streams.cpp",
        "if (s.device != task.device || s.lane != task.lane) continue;",
        "if (s.lane != task.lane) continue;",
        GPU,
    ),
    Mutation(
        "a child does not inherit its parent's stream",
        "streams.cpp",
        "s.lane == task.lane && s.launched == position) return stream;",
        "s.lane == task.lane && s.launched == position) break;",
        GPU,
    ),
    Mutation(
        "all tasks of a lane take one stream",
        "streams.cpp",
        "    if (s.launched == s.completed) return i;\n",
        "    return i;\n",
        GPU,
    ),
    # ---- GPUs
    Mutation(
        "a launch is done at once",
        "cuda.cpp",
        "driver_.event_query(queue.marks.front().event);",
        "cuda::kSuccess;",
        GPU,
    ),
    Mutation(
        "an event is used again before it is complete",
        "cuda.cpp",
        "  queue.last_event = event;\n",
        "  queue.last_event = event;\n  gpu.events.push_back(event);\n",
        GPU,
    ),
    Mutation(
        "staging memory goes back at the launch",
        "cuda.cpp",
        "      launch.enqueued = !result;\n",
        "      launch.enqueued = !result;\n"
        "      if (launch.prepared.staging) std::memset(launch.prepared.staging, 0, launch.prepared.staging_bytes);\n",
        GPU,
    ),
    Mutation(
        "staging memory goes back before the copy has ended",
        "cuda.cpp",
        "  prepared.staging_bytes = nbytes;\n",
        "  prepared.staging_bytes = nbytes;\n  staging_.release(prepared.staging, nbytes);\n",
        GPU,
    ),
    Mutation(
        "pinned memory has no limit",
        "cuda.cpp",
        "staging_.limit_bytes = staging_.cache_bytes = kStagingBytes;",
        "staging_.cache_bytes = kStagingBytes;",
        GPU,
    ),
    Mutation(
        "an event that is not complete goes to the next",
        "cuda.cpp",
        "    if (result == cuda::kNotReady) return;\n",
        "    if (result == cuda::kNotReady) return gpu.events.push_back(queue.marks.front().event);\n",
        GPU,
    ),
    Mutation(
        "an event stands for its own stream alone, at its end",
        "cuda.cpp",
        "if (mark.clock[i]) take(static_cast<uint16_t>(i), mark.clock[i], out);",
        "(void)i;",
        GPU,
    ),
    Mutation(
        "an event stands for its own stream alone, where it is waited for",
        "streams.cpp",
        "clock[i] = std::max(clock[i], source.event_clock[i]);",
        "(void)i;",
        GPU,
    ),
    Mutation(
        "what a lost GPU had under way counts as done",
        "cuda.cpp",
        "    if (queues_[stream].gpu->lost) out.back().lost = queues_[stream].gpu;\n",
        "",
        GPU,
    ),
    Mutation(
        "who does not wait for a lost GPU counts as coming after all that it came after",
        "cuda.cpp",
        "  if (own.lost || far.lost) return false;\n",
        "  if (own.lost || far.lost) return true;\n",
        GPU,
    ),
    Mutation(
        "each lost GPU tells of itself",
        "cuda.cpp",
        "Gpu& first = launch.lost->culprit ? *launch.lost->culprit : *launch.lost;",
        "Gpu& first = *launch.lost;",
        GPU,
    ),
    Mutation(
        "traces tell the host's times of launches",
        "cuda.cpp",
        "if (launch.before && launch.after && !launch.lost &&",
        "if (false &&",
        GPU,
    ),
    Mutation(
        "a copy is staged before its source is there",
        "executor.cpp",
        " &&\n      !(task.flags & from.flags & kCrosses)) {",
        ") {",
        GPU,
    ),
    Mutation("errors of kernels are not looked at", "cuda.cpp", "launch.error && launch.error[0]", "false", GPU),
    Mutation(
        "what is poisoned when it is launched does not run",
        "cuda.cpp",
        "  if (queue.gpu->lost) {\n",
        "  if (queue.gpu->lost || executor_.poisoned(slot)) {\n",
        GPU,
    ),
    Mutation(
        "launches are concluded in any order",
        "cuda.cpp",
        "return a.order < b.order;",
        "return a.order > b.order;",
        GPU,
    ),
    Mutation(
        "what waits for a lost GPU waits for ever",
        "cuda.cpp",
        "lose(other, result, culprit ? culprit : &gpu);",
        ";",
        GPU,
    ),
    Mutation(
        "nobody waits for memory",
        "cuda.cpp",
        "    if (concluded_ == seen && unfinished_ == 0) return nullptr;\n",
        "    return nullptr;\n",
        GPU,
    ),
    # ---- batches and CUDA graphs
    Mutation(
        "a task of a batch comes after nothing",
        "executor.cpp",
        "          (plain ? link(index, slots[predecessor], false) : connect(index, slots[predecessor])))",
        "          plain && link(index, slots[predecessor], false))",
        GRAPHS,
    ),
    Mutation(
        "a batch does not wait for what was recorded before it",
        "executor.cpp",
        "    if (!plain && !body->operands.empty()) order_operands(index, call, edges, trace);\n",
        "    for (const OperandSpec& spec : body->operands) call.operands[spec.index].buffer->references++;\n",
        GRAPHS,
    ),
    Mutation("captured streams are not joined", "capture.cpp", "result = order(i, origin);", ";", GRAPHS),
    Mutation(
        "no wait is captured",
        "cuda.cpp",
        "if (own.lost || far.lost) return false;",
        "if (own.lost || far.lost || captures(stream)) return false;",
        GRAPHS,
    ),
    Mutation(
        "events of a capture are asked after it",
        "cuda.cpp",
        "  if (captures(stream)) capture_->events.push_back(event);\n  else queue",
        "  queue",
        GRAPHS,
    ),
    Mutation(
        "a capture ends before all is launched",
        "capture.cpp",
        "  room_.wait(lock, [&] { return capture_->launched == tasks; });\n",
        "",
        GRAPHS,
    ),
    Mutation(
        "a captured program does not run at once",
        "capture.cpp",
        "  if (!result) result = driver_.graph_launch(made.executable, stream);\n",
        "",
        GRAPHS,
    ),
    Mutation(
        "handles of cuBLAS are not made before a capture",
        "capture.cpp",
        "&& make_blas(queues_[i])) break;",
        "&& false) break;",
        GRAPHS,
    ),
    Mutation(
        "products of a graph take the workspaces of streams",
        "cuda.cpp",
        "  if (k > 0 && captures(stream)) {\n",
        "  if (false && captures(stream)) {\n",
        GRAPHS,
    ),
    Mutation(
        "a capture waits for memory that nobody gives back",
        "cuda.cpp",
        "    if (capture_ && &capture_->device->memory == &memory) return nullptr;",
        "",
        GRAPHS,
    ),
    Mutation(
        "memory of a graph is given to others",
        "graphs.cpp",
        "      captured->kept.push_back(use.buffer);\n",
        "      executor.drop_handle(use.buffer);\n",
        GRAPHS,
    ),
    Mutation(
        "a write moves what a graph uses",
        "graphs.cpp",
        "    if (block) use.buffer->graphs++;\n",
        "",
        GRAPHS,
    ),
    Mutation(
        "a graph runs on memory that was replaced",
        "cuda.cpp",
        "graph && graph->addresses != launch.prepared.data) {",
        "graph && false) {",
        GRAPHS,
    ),
    Mutation(
        "errors of replays are not looked at",
        "cuda.cpp",
        "replayed ? replayed->take_error(launch.code, launch.details) : nullptr;",
        "nullptr;\n  (void)replayed;",
        GRAPHS,
    ),
    Mutation(
        "an error of one replay is found after the next",
        "capture.cpp",
        "  for (const Step& step : steps) std::memset(step.error, 0, kErrorWords * sizeof(int64_t));\n",
        "",
        GRAPHS,
    ),
    Mutation(
        "a graph runs again before its errors were read",
        "executor.cpp",
        "  if (body->kernel && body->kernel->kind == Kernel::kGraph) task.flags |= kCrosses;\n",
        "",
        GRAPHS,
    ),
    Mutation(
        "another thread takes part in a capture",
        "graphs.cpp",
        "    return !touches;\n",
        "    PyErr_Clear();\n    return true;\n",
        GRAPHS,
    ),
    Mutation(
        "what other devices do in a capture is forgotten",
        "graphs.cpp",
        "  if (elsewhere) {\n",
        "  if (false && elsewhere) {\n",
        GRAPHS,
    ),
    # ---- lifetimes
    Mutation(
        "memory goes back while tasks need it",
        "executor.cpp",
        "  } else if (left < kHandle) {\n",
        "  } else if (left < kHandle) {\n    if (char* data = buffer->data.exchange(nullptr)) "
        "buffer->device->memory.release(data, nbytes);\n",
        BOTH,
    ),
    Mutation(
        "exported memory is written",
        "executor.cpp",
        "return block && (!block->device || block->references.load(std::memory_order_acquire) > 1 + buffer->graphs);",
        "return block && false;",
    ),
    Mutation(
        "a result takes over memory that has a handle",
        "executor.cpp",
        "    if (donor->references.load(std::memory_order_acquire) >= kHandle) continue;\n",
        "",
    ),
    Mutation(
        "a result takes over memory that another task reads",
        "executor.cpp",
        "if (!own && !is_done({read.task, read.sequence})) return false;",
        "(void)own;",
    ),
    Mutation(
        "a result takes over memory that a later task writes",
        "executor.cpp",
        "|| donor->last_writer >= first) return false;",
        ") return false;",
    ),
    Mutation(
        "a result that others write takes over memory",
        "executor.cpp",
        "if (output->first_writer != first ||",
        "if (",
    ),
    Mutation(
        "a result takes over exported memory",
        "executor.cpp",
        "|| donor->block.load(std::memory_order_relaxed)) return false;",
        ") return false;",
    ),
    Mutation(
        "memory that was taken over goes back",
        "executor.cpp",
        "    if (!buffer->donated) buffer->device",
        "    buffer->device",
    ),
    # ---- failures and bounds
    Mutation(
        "poison is not looked for",
        "executor.cpp",
        "    if (found && (!first || found->sequence < first->sequence)) first = found;\n",
        "",
    ),
    Mutation("any write heals", "executor.cpp", "if (failure || (spec.mode & kOverwrite)) {", "if (true) {"),
    Mutation(
        "failures do not poison",
        "executor.cpp",
        "      poison->push_back({region, failure});",
        "      ;",
    ),
    Mutation(
        "the bounds are off",
        "executor.h",
        "return (budget_tasks_ < 0 || budget_bytes_ < 0) &&",
        "return false && (budget_tasks_ < 0 || budget_bytes_ < 0) &&",
    ),
    Mutation(
        "failures are not delivered to wait",
        "waiting.cpp",
        "  if (auto failure = executor.poison_of(handle->buffer, region)) {",
        "  if (auto failure = std::shared_ptr<Failure>()) {",
    ),
    Mutation("nobody wakes a sleeping worker", "executor.cpp", "  chosen->wake.notify_one();", "  ;"),
]
