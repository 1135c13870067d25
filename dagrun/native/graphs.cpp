// Captured programs as Python objects: what a capture admits and keeps, and the task that runs a graph again.
//
// A graph names memory, not arrays. So it keeps every buffer that its operations touched, and the blocks of those that
// others can still reach: a write to an array that somebody holds exported moves the array, never the graph's memory.
#include <mutex>
#include <unordered_map>

#include "cuda.h"
#include "objects.h"

#include <structmember.h>

namespace dagrun {

// With the GIL. While it lasts no other thread records on the device.
struct Capture {
  struct Use {
    Buffer* buffer;  // with a handle of the capture's
    uint8_t mode;
  };
  Device* device;
  unsigned long thread;
  uint64_t tasks = 0;
  bool refused = false;
  std::vector<Use> uses;
  std::unordered_map<Buffer*, size_t> places;
};

namespace {

// What the object of a graph leaves behind; given back when no task runs it any more.
struct Captured {
  std::unique_ptr<CudaGraph> graph;
  Device* device;
  Operation* operation = nullptr;  // one body: the task that runs it
  std::vector<Operand> operands;   // of that task: a buffer of its own, so that runs follow each other, then `uses`
  std::vector<Block*> blocks;      // of the operands after the first; nullptr: it has no bytes
  std::vector<Buffer*> kept;       // reached by nothing else
};

struct Graph {
  PyObject_HEAD
  Captured* captured;
};

PyTypeObject* graph_type = nullptr;
std::vector<Captured*> dropped;

CudaStreams& streams_of(const Device* device) { return *static_cast<CudaStreams*>(device->streams); }

void release(Captured* captured) {
  Executor& executor = *module.executor;
  streams_of(captured->device).destroy(*captured->graph);
  for (size_t i = 0; i < captured->blocks.size(); i++) {
    Block* block = captured->blocks[i];
    Buffer* buffer = captured->operands[i + 1].buffer;
    if (!block) continue;
    {
      std::lock_guard<SpinLock> guard(executor.record_lock());
      if (buffer->block.load() == block) buffer->graphs--;
    }
    executor.drop_block(block);
  }
  for (const Operand& operand : captured->operands) executor.drop_handle(operand.buffer);
  for (Buffer* buffer : captured->kept) executor.drop_handle(buffer);
  retire(captured->operation);
  delete captured;
}

// Finalizers never wait: a graph that still runs is given back later.
void release_dropped() {
  for (size_t i = 0; i < dropped.size();) {
    Captured* captured = dropped[i];
    if (!captured->operands.empty() && module.executor->is_used(captured->operands[0].buffer)) {
      i++;
      continue;
    }
    dropped[i] = dropped.back();
    dropped.pop_back();
    release(captured);
  }
}

// The operation whose one body runs the graph. It reads and writes whole buffers.
Operation* operation_of(Captured* captured, const std::vector<uint8_t>& modes) {
  Executor& executor = *module.executor;
  auto kernel = std::make_shared<Kernel>();
  kernel->kind = Kernel::kGraph;
  kernel->function = captured->graph.get();
  auto body = std::make_unique<Body>();
  body->kernel = std::move(kernel);
  body->name = executor.intern("graph");
  body->shapes = executor.intern(std::to_string(captured->graph->nodes) + " nodes");
  body->cost = 1 << 20;
  for (size_t i = 0; i < modes.size(); i++) {
    OperandSpec spec;
    spec.region = {0, captured->operands[i].buffer->nbytes, 0, 0};
    spec.mode = modes[i];
    spec.index = static_cast<uint16_t>(i);
    body->operands.push_back(spec);
  }
  auto* operation = new Operation();
  operation->name = "graph";
  operation->bodies.push_back(std::move(body));
  return operation;
}

// What the graph keeps of what the capture kept. Everything captured is done.
void keep(Captured* captured, const Capture& capture) {
  Executor& executor = *module.executor;
  std::vector<uint8_t> modes{kWrite | kOverwrite};
  std::lock_guard<SpinLock> guard(executor.record_lock());
  captured->operands.push_back({executor.new_buffer(captured->device, 0), 0});
  for (const Capture::Use& use : capture.uses) {
    if (use.buffer->references.load(std::memory_order_acquire) / kHandle == 1) {
      captured->kept.push_back(use.buffer);
      continue;
    }
    Block* block = use.buffer->nbytes ? executor.export_block(use.buffer) : nullptr;
    if (block) use.buffer->graphs++;
    captured->operands.push_back({use.buffer, 0});
    captured->blocks.push_back(block);
    modes.push_back(use.mode);
  }
  captured->operation = operation_of(captured, modes);
  const Body& body = *captured->operation->bodies[0];
  captured->graph->addresses.resize(body.operands.size());
  executor.resolve(&body, captured->operands.data(), captured->graph->addresses.data());  // all have their memory
}

void drop(const Capture& capture) {
  for (const Capture::Use& use : capture.uses) module.executor->drop_handle(use.buffer);
}

PyObject* replay(PyObject* self, PyObject*) {
  Executor& executor = *module.executor;
  Captured& captured = *reinterpret_cast<Graph*>(self)->captured;
  if (!ready_to_record("replay a graph")) return nullptr;
  if (captures_here() && !refuse_in_capture("the replay of a graph", "replay it after the block")) return nullptr;
  if (module.capture && module.capture->device == captured.device)
    return PyErr_Format(PyExc_RuntimeError, "another thread captures %s: replay the graph after that", captured.device->name.c_str());
  if (executor.settings().serial)
    return PyErr_Format(PyExc_RuntimeError, "a graph is not replayed by the serial engine: call what was captured");
  const uint32_t site = current_site();
  while (executor.over_bound(1, 0)) {
    if (wait_for_space() < 0) return nullptr;
  }
  Call call;
  call.body = captured.operation->bodies[0].get();
  call.operands = captured.operands.data();
  call.device = captured.device->index;
  call.site = site;
  {
    std::lock_guard<SpinLock> guard(executor.record_lock());
    executor.push(call);
  }
  release_dropped();
  Py_RETURN_NONE;
}

PyObject* nodes(PyObject* self, void*) {
  return PyLong_FromUnsignedLongLong(reinterpret_cast<Graph*>(self)->captured->graph->nodes);
}

void dealloc(PyObject* self) {
  if (!module.forked) {
    dropped.push_back(reinterpret_cast<Graph*>(self)->captured);
    release_dropped();
  }
  PyTypeObject* type = Py_TYPE(self);
  PyObject_Free(self);
  Py_DECREF(type);
}

PyMethodDef graph_methods[] = {{"replay", replay, METH_NOARGS, "Runs what was captured once more."}, {}};
PyGetSetDef graph_getset[] = {{"nodes", nodes, nullptr, nullptr, nullptr}, {}};
PyType_Slot graph_slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(dealloc)},
                             {Py_tp_methods, graph_methods},
                             {Py_tp_getset, graph_getset},
                             {Py_tp_doc, const_cast<char*>("a captured program")},
                             {0, nullptr}};
PyType_Spec graph_spec = {"dagrun._native.Graph", sizeof(Graph), 0,
                          Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, graph_slots};

}  // namespace

bool captures_here() { return module.capture && module.capture->thread == PyThread_get_thread_ident(); }

bool refuse_in_capture(const char* what, const char* why) {
  module.capture->refused = true;
  PyObject* site = describe_site(current_site());
  PyErr_Format(PyExc_RuntimeError, "%s cannot be captured: %s\n  recorded at: %S:%S in %S", what, why, PyTuple_GET_ITEM(site, 0),
               PyTuple_GET_ITEM(site, 1), PyTuple_GET_ITEM(site, 2));
  Py_DECREF(site);
  return false;
}

bool may_capture(const Operation* operation, Device* device, Handle* const* inputs, Handle* const* outputs, bool python) {
  const Device* captured = module.capture->device;
  const char* name = operation->name.c_str();
  const Device* elsewhere = device == captured ? nullptr : device;
  bool touches = device == captured;
  auto look = [&](Handle* const* handles, size_t count) {
    for (size_t i = 0; i < count; i++) {
      const Device* own = handles[i]->buffer->device;
      if (own == captured) touches = true;
      else elsewhere = own;
    }
  };
  look(inputs, operation->inputs.size());
  if (outputs) look(outputs, operation->outputs.size());
  if (!captures_here()) {
    if (touches) PyErr_Format(PyExc_RuntimeError, "%s: another thread captures %s", name, captured->name.c_str());
    return !touches;
  }
  if (elsewhere) {
    const std::string why = "it uses " + elsewhere->name + ", and only what " + captured->name +
                            " does by itself can be replayed: move it out of the block";
    return refuse_in_capture(name, why.c_str());
  }
  if (python) return refuse_in_capture(name, "it runs in Python: there is no kernel for it");
  for (size_t i = 0; outputs && i < operation->outputs.size(); i++) {
    if (module.executor->needs_detach(outputs[i]->buffer))
      return refuse_in_capture(name, "it writes memory that a function in Python still holds");
  }
  return true;
}

bool may_capture_batch(const Device* device) {
  if (captures_here() == (device == module.capture->device)) return true;
  if (captures_here()) return refuse_in_capture("a batch", "it runs on another device");
  PyErr_Format(PyExc_RuntimeError, "a batch: another thread captures %s", device->name.c_str());
  return false;
}

void keep_captured(const Operand* operands, const Body& body) {
  Capture& capture = *module.capture;
  capture.tasks++;
  for (const OperandSpec& spec : body.operands) {
    const Operand& operand = operands[spec.index];
    auto [place, first] = capture.places.try_emplace(operand.buffer, capture.uses.size());
    if (first) {
      module.executor->add_handle(operand.buffer);
      const Region whole{0, operand.buffer->nbytes, 0, 0};
      const bool fresh = (spec.mode & kOverwrite) && covers(shifted(spec.region, operand.offset), whole);
      capture.uses.push_back({operand.buffer, static_cast<uint8_t>(fresh ? kWrite | kOverwrite : kRead)});
    }
    capture.uses[place->second].mode |= spec.mode & kWrite;
  }
}

PyObject* begin_capture(PyObject*, PyObject* args) {
  int index;
  if (!PyArg_ParseTuple(args, "i", &index)) return nullptr;
  Executor& executor = *module.executor;
  if (index < 0 || index >= executor.device_count()) return PyErr_Format(PyExc_ValueError, "no device %d", index);
  Device* device = executor.device(index);
  if (!device->memory.source)
    return PyErr_Format(PyExc_ValueError, "%s is no GPU: only what a GPU runs can be captured", device->name.c_str());
  if (!ready_to_record("capture a graph")) return nullptr;
  if (executor.settings().serial)
    return PyErr_Format(PyExc_RuntimeError, "the serial engine waits for every operation: nothing can be captured");
  if (module.capture)
    return PyErr_Format(PyExc_RuntimeError, "%s is captured already: captures follow each other", module.capture->device->name.c_str());
  release_dropped();
  Capture* capture = module.capture = new Capture{device, PyThread_get_thread_ident(), 0, false, {}, {}};
  std::string problem;
  const bool idle = finish_everything() == 0;
  if (idle) problem = streams_of(device).begin_capture(device);
  if (idle && problem.empty()) Py_RETURN_NONE;
  module.capture = nullptr;
  delete capture;
  return problem.empty() ? nullptr : PyErr_Format(PyExc_RuntimeError, "%s cannot be captured: %s", device->name.c_str(), problem.c_str());
}

// end_capture(abandon): the graph ran once when this returns, also where it is abandoned: values are as without a capture.
PyObject* end_capture(PyObject*, PyObject* args) {
  int abandon;
  if (!PyArg_ParseTuple(args, "p", &abandon)) return nullptr;
  if (!captures_here()) return PyErr_Format(PyExc_RuntimeError, "this thread captures nothing");
  Capture& capture = *module.capture;
  auto captured = std::make_unique<Captured>();
  captured->device = capture.device;
  module.executor->resume();
  PyThreadState* state = PyEval_SaveThread();
  captured->graph = streams_of(capture.device).end_capture(capture.tasks);
  PyEval_RestoreThread(state);
  const std::unique_ptr<Capture> ended(module.capture);
  module.capture = nullptr;
  const CudaGraph& graph = *captured->graph;
  if (!abandon && !capture.refused && !graph.incomplete) {
    Graph* made = PyObject_New(Graph, graph_type);
    if (!made) return nullptr;
    keep(captured.get(), capture);
    made->captured = captured.release();
    return reinterpret_cast<PyObject*>(made);
  }
  const std::shared_ptr<Failure> failure = graph.failure;
  streams_of(capture.device).destroy(*captured->graph);
  drop(capture);
  if (abandon) Py_RETURN_NONE;
  if (failure) raise_failure(failure);
  else PyErr_Format(PyExc_RuntimeError, "%s: the capture was given up: an operation in it was refused or failed", capture.device->name.c_str());
  return nullptr;
}

bool add_graph_type(PyObject* m) {
  graph_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&graph_spec));
  return graph_type && PyModule_AddType(m, graph_type) == 0;
}

}  // namespace dagrun
