"""The engine's rules, each broken on purpose: a text of the native sources, and what replaces it in the mutant.

`on` says where a mutant must be caught: "engine" on CPUs and simulated devices, "emulator" on emulated GPUs.
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
    Mutation("no wait for an event", "streams.cpp", "  enqueue_wait(stream, other, source.event);\n", "", BOTH),
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
        "body->lane != kPython && !body->detaches &&",
        "body->lane != kPython &&",
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
    # ---- lifetimes
    Mutation(
        "memory goes back while tasks need it",
        "executor.cpp",
        "  } else if (left < kHandle) {\n",
        "  } else if (left < kHandle) {\n    if (char* data = buffer->data.exchange(nullptr)) "
        "buffer->device->memory.release(data, nbytes);\n",
    ),
    Mutation(
        "exported memory is written",
        "executor.cpp",
        "return block && (!block->device || block->references.load(std::memory_order_acquire) > 1);",
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
