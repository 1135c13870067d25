// Prepared graphs from Python: many tasks, whose edges are known, recorded under one lock.
#include <cstring>
#include <mutex>

#include "objects.h"

namespace dagrun {

namespace {

// Buffers of Python objects, given back at the end.
struct View {
  Py_buffer buffer{};
  ~View() {
    if (buffer.obj) PyBuffer_Release(&buffer);
  }
  bool get(PyObject* object) { return PyObject_GetBuffer(object, &buffer, PyBUF_SIMPLE) == 0; }
};

// The recorded calls of a batch, and what their tasks point to while they are recorded.
struct Calls {
  PyObject* tuple = nullptr;  // owned: holds the arrays
  std::vector<Call> calls;
  std::vector<std::vector<Operand>> operands;
  std::vector<std::vector<uint64_t>> scalars;
  ~Calls() { Py_XDECREF(tuple); }
};

bool read_arrays(PyObject* tuple, const std::vector<Layout*>& layouts, std::vector<Handle*>& handles) {
  if (PyTuple_GET_SIZE(tuple) != static_cast<Py_ssize_t>(layouts.size())) return false;
  for (size_t i = 0; i < layouts.size(); i++) {
    PyObject* item = PyTuple_GET_ITEM(tuple, static_cast<Py_ssize_t>(i));
    if (!is_array(item) || reinterpret_cast<Handle*>(item)->layout != layouts[i]) return false;
    handles.push_back(reinterpret_cast<Handle*>(item));
  }
  return true;
}

// item: (signature, outputs, inputs, scalars: bytes).
bool read_call(PyObject* item, Device* device, Call& call, std::vector<Operand>& operands, std::vector<uint64_t>& scalars) {
  PyObject *object, *outputs, *inputs, *packed;
  if (!PyArg_ParseTuple(item, "O!O!O!S", module.signature_type, &object, &PyTuple_Type, &outputs, &PyTuple_Type, &inputs, &packed))
    return false;
  auto* signature = reinterpret_cast<Signature*>(object);
  const Operation& operation = *signature->operation;
  std::vector<Handle*> out, in;
  if (!read_arrays(outputs, operation.outputs, out) || !read_arrays(inputs, operation.inputs, in) ||
      PyBytes_GET_SIZE(packed) != 8 * operation.scalar_count) {
    PyErr_Format(PyExc_ValueError, "operands do not fit the signature of %s", operation.name.c_str());
    return false;
  }
  PyObject* callable = nullptr;
  const auto* bodies = bodies_on(device, signature, &callable);
  if (!bodies) return false;
  if (bodies->size() != 1 || (*bodies)[0]->lane == kPython) {
    PyErr_Format(PyExc_ValueError, "%s on %s is %zu tasks%s: a batch takes operations that are one native task",
                 operation.name.c_str(), device->name.c_str(), bodies->size(), bodies->size() == 1 ? " in Python" : "");
    return false;
  }
  if (module.capture && !may_capture(&operation, device, in.data(), out.data(), false)) return false;
  for (const auto* handles : {&out, &in}) {
    for (Handle* handle : *handles) operands.push_back({handle->buffer, handle->offset});
  }
  scalars.resize(static_cast<size_t>(operation.scalar_count));
  if (!scalars.empty()) std::memcpy(scalars.data(), PyBytes_AS_STRING(packed), 8 * scalars.size());
  call.body = (*bodies)[0].get();
  call.operands = operands.data();
  call.scalars = scalars.data();
  call.scalar_count = operation.scalar_count;
  return true;
}

bool read_calls(PyObject* object, Device* device, const Body* nothing, uint32_t site, Calls& out) {
  out.tuple = PySequence_Tuple(object);
  if (!out.tuple) return false;
  const size_t count = static_cast<size_t>(PyTuple_GET_SIZE(out.tuple));
  out.calls.resize(count);
  out.operands.resize(count);
  out.scalars.resize(count);
  for (size_t i = 0; i < count; i++) {
    PyObject* item = PyTuple_GET_ITEM(out.tuple, static_cast<Py_ssize_t>(i));
    out.calls[i].body = nothing;
    out.calls[i].device = device->index;
    out.calls[i].site = site;
    if (item == Py_None) continue;
    if (!PyTuple_Check(item)) {
      PyErr_Format(PyExc_TypeError, "call %zu of a batch: expected (signature, outputs, inputs, scalars) or None", i);
      return false;
    }
    if (!read_call(item, device, out.calls[i], out.operands[i], out.scalars[i])) return false;
  }
  return true;
}

bool is_graph(const Batch& batch, uint64_t most) {
  for (uint32_t i = 0; i < batch.count; i++) {
    if (batch.first[i] > batch.first[i + 1] || batch.first[i + 1] > most) return false;
    for (uint32_t p = batch.first[i]; p < batch.first[i + 1]; p++) {
      if (batch.predecessors[p] >= i) return false;
    }
  }
  return true;
}

}  // namespace

// push_batch(first, predecessors, device, name, function=0, priorities=None, calls=None): uint32 buffers. Each task runs
// its call, of which there are as many as tasks; where it is None, or no calls are given, the function, without operands.
PyObject* push_batch(PyObject*, PyObject* args) {
  Executor& executor = *module.executor;
  PyObject *first_object, *predecessors_object, *priorities_object = Py_None, *calls_object = Py_None;
  int index;
  const char* name;
  unsigned long long function = 0;
  if (!PyArg_ParseTuple(args, "OOis|KOO", &first_object, &predecessors_object, &index, &name, &function, &priorities_object, &calls_object))
    return nullptr;
  if (index < 0 || index >= executor.device_count()) return PyErr_Format(PyExc_ValueError, "no device %d", index);
  Device* device = executor.device(index);
  if (!ready_to_record("record a batch") || (module.capture && !may_capture_batch(device))) return nullptr;
  if (function && device->target)
    return PyErr_Format(PyExc_ValueError, "a function of the CPU does not run on %s: give calls", device->name.c_str());
  View first, predecessors, priorities;
  if (!first.get(first_object) || !predecessors.get(predecessors_object)) return nullptr;
  if (first.buffer.len < 4) return PyErr_Format(PyExc_ValueError, "first is empty, expected one entry more than there are tasks");
  if (priorities_object != Py_None && !priorities.get(priorities_object)) return nullptr;
  auto* body = new Body();  // lives on: batches are few and prepared
  body->name = executor.intern(name);
  body->function = reinterpret_cast<Function>(function);
  Batch batch;
  batch.count = static_cast<uint32_t>(first.buffer.len / 4) - 1;
  batch.first = static_cast<const uint32_t*>(first.buffer.buf);
  batch.predecessors = static_cast<const uint32_t*>(predecessors.buffer.buf);
  batch.priorities = static_cast<const int32_t*>(priorities.buffer.buf);
  batch.device = device->index;
  batch.site = current_site();
  if (!is_graph(batch, static_cast<uint64_t>(predecessors.buffer.len) / 4) ||
      (batch.priorities && priorities.buffer.len != 4LL * batch.count))
    return PyErr_Format(PyExc_ValueError, "task i of a batch may only come after tasks before it");
  Calls calls;
  std::vector<const Body*> bodies(batch.count, body);
  if (calls_object != Py_None) {
    if (!read_calls(calls_object, device, body, batch.site, calls)) return nullptr;
    if (calls.calls.size() != batch.count)
      return PyErr_Format(PyExc_ValueError, "%zu calls for %u tasks of a batch", calls.calls.size(), batch.count);
    for (uint32_t i = 0; i < batch.count; i++) bodies[i] = calls.calls[i].body;
    batch.calls = calls.calls.data();
  }
  batch.bodies = bodies.data();
  const bool captured = captures_here();
  uint64_t sequence = 0;
  bool held = false;
  PyThreadState* state = PyEval_SaveThread();
  {
    std::lock_guard<SpinLock> guard(executor.record_lock());
    for (uint32_t i = 0; batch.calls && i < batch.count; i++) {
      for (const OperandSpec& spec : bodies[i]->operands)
        held = held || ((spec.mode & kWrite) && executor.needs_detach(batch.calls[i].operands[spec.index].buffer));
    }
    if (!held) sequence = executor.push_batch(batch);
    for (uint32_t i = 0; captured && !held && i < batch.count; i++)
      keep_captured(batch.calls ? batch.calls[i].operands : nullptr, *bodies[i]);
  }
  PyEval_RestoreThread(state);
  if (held) return PyErr_Format(PyExc_BufferError, "a call of a batch writes memory that is exported: drop the export first");
  return PyLong_FromUnsignedLongLong(sequence);
}

}  // namespace dagrun
