// The records of the engine: body, task, buffer, failure. Data only; `executor.cpp` moves them through their states.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "region.h"

namespace dagrun {

struct Device;
struct Buffer;
struct StreamInfo;

// What a task runs: int32 body(data, params, scalars, error); 0 is success, else a code with details in error[0..3].
using Function = int32_t (*)(char**, const int64_t*, const uint64_t*, int64_t*);

// A device runs the tasks of each lane kind under a bound of its own, so that copies and collectives go on beside compute.
enum Lane : uint8_t { kCompute, kCopy, kCommunication, kPython, kLanes };

// kRead | kWrite is an update in place; kOverwrite says that the write does not depend on what was there. kDonates, of
// an input that fills its buffer: each of its bytes is read only to write the same byte of the first operand, before.
enum Mode : uint8_t { kRead = 1, kWrite = 2, kOverwrite = 4, kDonates = 8 };

struct OperandSpec {
  Region region;       // relative to the operand's view offset
  int64_t offset = 0;  // bytes from the view's first element to this body's first element
  uint8_t mode = kRead;
  uint16_t index = 0;  // which operand of the operation (outputs first)
};

// What a GPU runs instead of a function: one launch with its geometry, a product, a copy, or a captured graph of them.
// Immutable, like its body.
struct Kernel {
  enum Kind : uint8_t { kLaunch, kGemm, kCopy, kGraph } kind = kLaunch;
  void* function = nullptr;  // of a launch: a CUfunction of the body's GPU; of a graph: its CudaGraph
  uint32_t blocks = 0, threads = 0, shared_bytes = 0;
  int dtype = 0, compute = 0;  // of a product: cudaDataType, cublasComputeType_t
};

// The part of a task that many tasks share. Immutable once used; outlives every task that names it.
struct Body {
  Function function = nullptr;  // nullptr: a Python callable in the arguments, or nothing to do
  std::vector<int64_t> params;
  std::vector<OperandSpec> operands;
  uint32_t name = 0;    // interned
  uint32_t shapes = 0;  // interned
  Lane lane = kCompute;
  int32_t priority = 0;
  int64_t cost = 0;         // bytes moved, the estimate of its length
  bool detaches = false;    // replaces exported memory before a write (Executor::detach)
  bool donates = false;     // some operand does (Executor::take_over)
  uint32_t piece = 0;       // which body of its operation, of how many; they have consecutive sequence numbers
  uint32_t pieces = 1;
  void* owner = nullptr;    // the signature, for error messages
  std::shared_ptr<const Kernel> kernel;  // on a GPU
  bool hands_scalars = false;  // the Python callable gets the scalars' bytes too
};

// States and their transitions. This table is the only place that knows them; see `allowed` in executor.cpp.
//   kFree -> kPending      recorded
//   kPending -> kReady     the last predecessor is satisfied
//   kReady -> kRunning     a lane took it
//   kRunning -> kLaunched  enqueued on a stream: successors on streams may be enqueued, nothing is done yet
//   kRunning -> kDone, kLaunched -> kDone   finished or failed: memory may be reused, waiters return
//   kDone -> kFree         the slot goes back
enum class State : uint8_t { kFree, kPending, kReady, kRunning, kLaunched, kDone };

constexpr uint32_t kClosed = 0xFFFFFFFF;  // head of a successor list that takes no more entries
constexpr int kLinks = 4;                 // predecessors of a task beyond these go to link blocks

// One slot, one cache line: whoever finishes a task writes to tasks that lie anywhere, and each costs one line to move.
// A link is (slot << 4 | k): entry k of a task's `next`, chained into a predecessor's successor list.
struct alignas(64) Task {
  std::atomic<uint32_t> done_head{0};    // successors that need this task done
  std::atomic<uint32_t> launch_head{0};  // successors on streams: need it launched
  std::atomic<int32_t> pending{0};       // unsatisfied predecessors; kRecording on top while being recorded
  std::atomic<uint32_t> next[kLinks] = {};  // written under the record lock, read by whoever walks the list
  uint8_t links = 0;
  Lane lane = kCompute;
  uint8_t flags = 0;
  std::atomic<State> state{State::kFree};
  uint16_t device = 0;
  bool holds_lane = false;             // a finished task passed its place on the lane on to this one
  std::atomic<uint8_t> waited{0};      // somebody sleeps until this task is done
  int32_t priority = 0;
  std::atomic<uint64_t> sequence{0};   // program order, from 1; tells a reused slot from the task once meant
  const Body* body = nullptr;
  uint32_t site = 0;                   // the user's line, interned; of a link block: the task it serves
  uint32_t link_blocks = 0;            // further links: chain of slots used as link blocks
};
static_assert(sizeof(Task) == 64, "a task must stay in one cache line");

// kCrosses: the CPU has a part in what a GPU runs: a copy from or to it, or a graph, whose errors it reads after each run.
enum TaskFlags : uint8_t { kLinkBlock = 1, kOwned = 2, kStreamed = 4, kCrosses = 8, kHasArguments = 16 };

struct Operand {
  Buffer* buffer = nullptr;
  int64_t offset = 0;  // bytes from the buffer's start to the view's first element
};

constexpr int kInlineOperands = 4;
constexpr int kInlineScalars = 2;

// The part of a task that only tasks with operands have; slot i of the arguments belongs to slot i of the tasks.
struct Arguments {
  uint32_t operand_count = 0;
  uint32_t scalar_count = 0;
  Operand inline_operands[kInlineOperands];
  uint64_t inline_scalars[kInlineScalars];
  Operand* operands = nullptr;    // inline_operands or from new[]
  uint64_t* scalars = nullptr;    // inline_scalars or from new[]
  void* callable = nullptr;       // PyObject*, owned, of Python tasks
  StreamInfo* stream = nullptr;   // owned, of streamed tasks
  uint64_t position = 0;          // where in its stream such a task was launched, from 1
  uint16_t stream_index = 0;      // that stream
};

// An array that holds memory.
struct Holding {
  int64_t nbytes;
  uint32_t name, site;  // of what wrote it last
};

// Why a task failed. Shared by every region it poisoned; the exception (a PyObject*) is given back through the engine.
struct Failure {
  uint64_t sequence = 0;
  const Body* body = nullptr;
  uint32_t name = 0, shapes = 0, site = 0;
  uint16_t device = 0;
  int32_t code = 0;
  int64_t details[4] = {};
  void* exception = nullptr;
  void* owner = nullptr;  // the signature: explains the code
  std::vector<Holding> holdings;  // the largest arrays of a device that is out of memory
  std::atomic<bool> delivered{false};
};

// Code of a failure that no body returned.
constexpr int32_t kOutOfMemory = -1;   // details: bytes asked for
constexpr int32_t kRaised = -2;        // exception holds what a Python body raised
constexpr int32_t kDeviceFault = -3;   // the GPU is lost. details: CUresult, interned text
constexpr int32_t kRefused = -4;       // the GPU's driver refused this launch. details: CUresult, interned text
constexpr int32_t kMoved = -5;         // an operand no longer lies where the graph that runs was captured with it

struct Poison {
  Region region;
  std::shared_ptr<Failure> failure;
};

// Memory that somebody outside the engine also holds (an export) or lends to it (an import).
struct Block {
  std::atomic<int64_t> references{1};
  char* memory = nullptr;
  int64_t nbytes = 0;
  Device* device = nullptr;  // gives the memory back; nullptr: external, `base` (a PyObject*) owns it
  void* base = nullptr;
};

// One access that a later task may have to wait for.
struct AccessRecord {
  Region region;
  uint64_t sequence;
  uint32_t task;
};

constexpr uint64_t kHandle = 1ULL << 32;  // unit of the handle half of Buffer::references

struct Buffer {
  // High half: handles (user arrays, exports). Low half: unfinished tasks. At zero the memory goes back.
  std::atomic<uint64_t> references{0};
  std::atomic<char*> data{nullptr};      // allocated by the first task that needs it
  std::atomic<std::vector<Poison>*> poison{nullptr};
  int64_t nbytes = 0;
  Device* device = nullptr;
  std::atomic<Block*> block{nullptr};    // set under the record lock; nullptr unless exported or imported
  bool detach_failed = false;            // no memory for the copy that a write to exported memory needs
  std::atomic<int32_t> graphs{0};        // references to its block by captured graphs. Under the record lock
  bool donated = false;                  // its memory is another buffer's now. Set by a task that holds a reference
  uint64_t id = 0;
  // Under the record lock: the writes that no later write covers, and the reads since. Apart, because a read looks at
  // the writes only, and a value read a thousand times must not cost a thousand looks at each.
  std::vector<AccessRecord> writes, reads;
  size_t prune_at = 32;                  // look for finished ones when there are as many
  uint64_t version = 0;                  // number of writes recorded
  uint64_t first_writer = 0;             // sequence number of the first write
  uint64_t last_writer = 0;              // of the last one, with its name and user line (for stories and messages)
  uint32_t writer_name = 0, writer_site = 0;
  Buffer* next_free = nullptr;
};

// A buffer without bytes is one place: what happens to an empty result concerns whoever reads it.
inline Region region_in(const Buffer* buffer, const Region& region) { return buffer->nbytes ? region : Region{0, 1, 0, 0}; }

}  // namespace dagrun
