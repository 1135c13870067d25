// The functions of dagrun._native: thin, checked doors to the executor and the types.
#include <cstring>
#include <mutex>

#include "cuda.h"
#include "objects.h"
#include "sorting.h"
#include "streams.h"

namespace dagrun {

namespace {

std::thread& python_lane = *new std::thread;  // never destroyed: the interpreter may end before it does
std::unique_ptr<SimulatedStreams> simulated;
CudaStreams* gpus = nullptr;  // never destroyed: its thread may outlive the interpreter

Executor& engine() { return *module.executor; }

// nullptr with ValueError set where there is no such device.
Device* device_at(int index) {
  if (index >= 0 && index < engine().device_count()) return engine().device(index);
  PyErr_Format(PyExc_ValueError, "no device %d", index);
  return nullptr;
}

PyObject* none_or_error(bool good) {
  if (!good) return nullptr;
  Py_RETURN_NONE;
}

// ---- life

PyObject* start(PyObject*, PyObject* args, PyObject* kwargs) {
  Settings s;
  int serial = 0, pin = 0, steer = 1;
  long long tasks = s.max_inflight_tasks, bytes = s.max_inflight_bytes, spin = s.spin_microseconds, inline_bytes = s.inline_bytes;
  unsigned long long seed = 0;
  static const char* names[] = {"workers", "max_inflight_tasks", "max_inflight_bytes", "spin_microseconds",
                                "inline_bytes", "shuffle_seed", "serial", "pin", "steer", nullptr};
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i|LLLLKppp", const_cast<char**>(names), &s.workers, &tasks, &bytes, &spin,
                                   &inline_bytes, &seed, &serial, &pin, &steer))
    return nullptr;
  if (s.workers < 1 || s.workers > 256) return PyErr_Format(PyExc_ValueError, "workers is %d, expected 1 to 256", s.workers);
  s.max_inflight_tasks = tasks;
  s.max_inflight_bytes = bytes;
  s.spin_microseconds = spin;
  s.inline_bytes = inline_bytes;
  s.shuffle_seed = seed;
  s.serial = serial;
  s.pin = pin;
  s.steer = steer;
  if (engine().started()) return PyErr_Format(PyExc_RuntimeError, "the engine runs already");
  engine().current_worker();
  engine().start(s);
  python_lane = std::thread(python_lane_main);
  Py_RETURN_NONE;
}

PyObject* stop(PyObject*, PyObject* args) {
  double seconds;
  if (!PyArg_ParseTuple(args, "d", &seconds)) return nullptr;
  if (!engine().started() || module.forked) Py_RETURN_TRUE;
  if (captures_here()) return none_or_error(refuse_in_capture("the end of the engine", "end the capture first"));
  const int64_t deadline = Executor::now_ns() + static_cast<int64_t>(seconds * 1e9);
  bool finished = true;
  while (engine().in_flight() > 0) {
    const int64_t left = (deadline - Executor::now_ns()) / 1000000;
    if (left <= 0) {
      finished = false;
      break;
    }
    PyThreadState* state = PyEval_SaveThread();
    engine().wait_all(
        [&] {
          PyEval_RestoreThread(state);
          const bool good = !PyErr_CheckSignals();  // Python tasks are left to their lane: one may never return
          state = PyEval_SaveThread();
          return good;
        },
        left);
    PyEval_RestoreThread(state);
    if (PyErr_Occurred()) return nullptr;
  }
  PyThreadState* state = PyEval_SaveThread();
  engine().stop_python();
  if (finished) python_lane.join();
  else python_lane.detach();
  engine().stop(finished ? 1000 : 0);
  PyEval_RestoreThread(state);
  drain_disposed();
  return PyBool_FromLong(finished);
}

PyObject* after_fork(PyObject*, PyObject*) {
  if (engine().started()) {
    module.forked = true;
    engine().abandon();
  }
  Py_RETURN_NONE;
}

PyObject* add_device(PyObject*, PyObject* args, PyObject* kwargs) {
  const char* name;
  PyObject* object;
  int compute, copy, communication, streams = 0, overwrite = 0, gpu = -1;
  long long limit = 0, cache = 1LL << 30;
  unsigned long long seed = 1;
  static const char* names[] = {"name", "object", "compute", "copy", "communication", "streams", "memory_limit",
                                "cache_bytes", "overwrite_freed", "seed", "gpu", nullptr};
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sOiii|pLLpKi", const_cast<char**>(names), &name, &object, &compute, &copy,
                                   &communication, &streams, &limit, &cache, &overwrite, &seed, &gpu))
    return nullptr;
  if (compute < 1 || copy < 1 || communication < 1)
    return PyErr_Format(PyExc_ValueError, "%s: lanes %d, %d, %d, expected at least one of each kind", name, compute, copy, communication);
  if (gpu >= 0 && (!gpus || gpu >= gpus->gpu_count()))
    return PyErr_Format(PyExc_ValueError, "%s: GPU %d of %d", name, gpu, gpus ? gpus->gpu_count() : 0);
  Device* device = engine().add_device(name);
  device->memory.limit_bytes = limit;
  device->memory.cache_bytes = cache;
  device->memory.overwrite_freed = overwrite;
  if (gpu >= 0) {
    const std::string problem = gpus->open(device, gpu, compute, copy, communication);
    if (!problem.empty()) return PyErr_Format(PyExc_RuntimeError, "%s cannot be opened: %s", name, problem.c_str());
  } else if (streams) {
    if (!simulated) simulated = std::make_unique<SimulatedStreams>(engine(), seed);
    simulated->add_device(device->index, compute, copy, communication);
    device->streams = simulated.get();
  } else {
    engine().set_lane_limit(device, kCompute, compute);
    engine().set_lane_limit(device, kCopy, copy);
    engine().set_lane_limit(device, kCommunication, communication);
  }
  if (module.devices.size() <= device->index) module.devices.resize(device->index + 1u);
  module.devices[device->index] = Py_NewRef(object);
  return PyLong_FromLong(device->index);
}

PyObject* set_lane_limit(PyObject*, PyObject* args) {
  int device, lane, limit;
  if (!PyArg_ParseTuple(args, "iii", &device, &lane, &limit) || !device_at(device)) return nullptr;
  if (lane < 0 || lane >= kPython || limit < 1) return PyErr_Format(PyExc_ValueError, "limit %d of lane %d", limit, lane);
  engine().set_lane_limit(engine().device(device), static_cast<Lane>(lane), limit);
  Py_RETURN_NONE;
}

PyObject* memory_stats(PyObject*, PyObject* args) {
  int device, reset = 0;
  if (!PyArg_ParseTuple(args, "i|p", &device, &reset) || !device_at(device)) return nullptr;
  Allocator& memory = engine().device(device)->memory;
  if (reset) memory.reset_peak();
  const MemoryStats s = memory.stats();
  return Py_BuildValue("{s:L,s:L,s:L}", "live_bytes", (long long)s.live_bytes, "peak_bytes", (long long)s.peak_bytes,
                       "cached_bytes", (long long)s.cached_bytes);
}

PyObject* holdings(PyObject*, PyObject* args) {
  int device, most;
  if (!PyArg_ParseTuple(args, "ii", &device, &most) || !device_at(device)) return nullptr;
  return describe_holdings(engine().largest(engine().device(device), static_cast<size_t>(most)));
}

PyObject* trim_memory(PyObject*, PyObject* args) {
  int device;
  if (!PyArg_ParseTuple(args, "i", &device) || !device_at(device)) return nullptr;
  engine().device(device)->memory.trim();
  Py_RETURN_NONE;
}

// ---- GPUs

// open_driver(driver path, cuBLAS path) -> (how many GPUs there are, why there is no cuBLAS)
PyObject* open_driver(PyObject*, PyObject* args) {
  const char *driver, *blas;
  if (!PyArg_ParseTuple(args, "ss", &driver, &blas)) return nullptr;
  if (!gpus) {
    std::string problem;
    auto opened = std::make_unique<CudaStreams>(engine(), driver, blas, problem);
    if (!problem.empty()) return PyErr_Format(PyExc_RuntimeError, "%s", problem.c_str());
    gpus = opened.release();
  }
  return Py_BuildValue("is", gpus->gpu_count(), gpus->blas_problem().c_str());
}

bool is_gpu(int ordinal) {
  if (gpus && ordinal >= 0 && ordinal < gpus->gpu_count()) return true;
  PyErr_Format(PyExc_ValueError, "no GPU %d", ordinal);
  return false;
}

// describe_gpu(ordinal) -> (name, bytes of memory, compute capability as 90, GPUs whose memory it can reach)
PyObject* describe_gpu(PyObject*, PyObject* args) {
  int ordinal;
  if (!PyArg_ParseTuple(args, "i", &ordinal) || !is_gpu(ordinal)) return nullptr;
  PyObject* peers = PyList_New(0);
  for (int other = 0; other < gpus->gpu_count(); other++) {
    if (other == ordinal || !gpus->peers(ordinal, other)) continue;
    PyObject* number = PyLong_FromLong(other);
    PyList_Append(peers, number);
    Py_DECREF(number);
  }
  return Py_BuildValue("sLiN", gpus->gpu_name(ordinal).c_str(), (long long)gpus->gpu_bytes(ordinal), gpus->capability(ordinal),
                       peers);
}

// load_kernel(ordinal, image: bytes, name, shared bytes) -> the address of its function
PyObject* load_kernel(PyObject*, PyObject* args) {
  int ordinal;
  unsigned shared_bytes;
  const char *image, *name;
  Py_ssize_t length;
  if (!PyArg_ParseTuple(args, "iy#sI", &ordinal, &image, &length, &name, &shared_bytes) || !is_gpu(ordinal)) return nullptr;
  std::string problem;
  void* function = gpus->load(ordinal, image, name, shared_bytes, problem);
  if (!function) return PyErr_Format(PyExc_RuntimeError, "kernel %s cannot be loaded: %s", name, problem.c_str());
  return PyLong_FromVoidPtr(function);
}

// ---- arrays

PyObject* layout(PyObject*, PyObject* args) {
  PyObject *dtype, *shape, *strides = Py_None;
  int code;
  long long itemsize;
  if (!PyArg_ParseTuple(args, "OiLO!|O", &dtype, &code, &itemsize, &PyTuple_Type, &shape, &strides)) return nullptr;
  const int ndim = static_cast<int>(PyTuple_GET_SIZE(shape));
  if (ndim > 64) return PyErr_Format(PyExc_ValueError, "%d axes, expected at most 64", ndim);
  int64_t dims[128];
  double bytes = static_cast<double>(itemsize);
  for (int i = 0; i < ndim; i++) {
    dims[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(shape, i));
    if (dims[i] == -1 && PyErr_Occurred()) return nullptr;
    if (dims[i] < 0) return PyErr_Format(PyExc_ValueError, "negative dimension %lld in the shape", (long long)dims[i]);
    bytes *= static_cast<double>(dims[i]);
  }
  if (bytes > 4e18) return PyErr_Format(PyExc_ValueError, "array of shape %R is too large: no memory can hold it", shape);
  if (strides == Py_None) {
    int64_t step = itemsize;
    for (int i = ndim - 1; i >= 0; i--) {
      dims[ndim + i] = step;
      if (dims[i]) step *= dims[i];
    }
  } else {
    if (!PyTuple_Check(strides) || PyTuple_GET_SIZE(strides) != ndim)
      return PyErr_Format(PyExc_ValueError, "strides %R do not fit shape %R", strides, shape);
    for (int i = 0; i < ndim; i++) {
      dims[ndim + i] = PyLong_AsLongLong(PyTuple_GET_ITEM(strides, i));
      if (dims[ndim + i] == -1 && PyErr_Occurred()) return nullptr;
    }
  }
  return reinterpret_cast<PyObject*>(make_layout(dtype, code, itemsize, dims, ndim));
}

bool get_layout(PyObject* object, Layout** out) {
  if (!PyObject_TypeCheck(object, module.layout_type)) {
    PyErr_Format(PyExc_TypeError, "expected a Layout, got %s", Py_TYPE(object)->tp_name);
    return false;
  }
  *out = reinterpret_cast<Layout*>(object);
  return true;
}

PyObject* empty(PyObject*, PyObject* args) {
  PyObject* object;
  int device;
  Layout* layout;
  if (!PyArg_ParseTuple(args, "Oi", &object, &device) || !get_layout(object, &layout)) return nullptr;
  if (!device_at(device) || !ready_to_record("make an array")) return nullptr;
  Buffer* buffer;
  {
    std::lock_guard<SpinLock> guard(engine().record_lock());
    buffer = engine().new_buffer(engine().device(device), layout->nbytes);
  }
  return reinterpret_cast<PyObject*>(make_handle(layout, buffer, 0));
}

// view(array, layout, offset, rule, *arguments): rule and arguments tell autodiff how gradients pass.
PyObject* view(PyObject*, PyObject* args) {
  PyObject *object, *layout_object;
  long long offset;
  Layout* layout;
  const Py_ssize_t count = PyTuple_GET_SIZE(args);
  if (count < 3) return PyErr_Format(PyExc_TypeError, "view: %zd arguments, expected at least 3", count);
  object = PyTuple_GET_ITEM(args, 0);
  layout_object = PyTuple_GET_ITEM(args, 1);
  offset = PyLong_AsLongLong(PyTuple_GET_ITEM(args, 2));
  if ((offset == -1 && PyErr_Occurred()) || !get_layout(layout_object, &layout)) return nullptr;
  Handle* handle = as_handle(object);
  if (!handle) return nullptr;
  const Region r = shifted(layout->region, offset);
  if (layout->size && (r.lo < 0 || r.hi > handle->buffer->nbytes))
    return PyErr_Format(PyExc_IndexError, "view of bytes [%lld, %lld) in a buffer of %lld", (long long)r.lo, (long long)r.hi,
                        (long long)handle->buffer->nbytes);
  Family* family = family_of(handle);
  if (!family) return nullptr;
  engine().add_handle(handle->buffer);
  Handle* made = make_handle(layout, handle->buffer, offset);
  auto* result = reinterpret_cast<PyObject*>(made);
  if (!made) return nullptr;
  made->family = family;
  Py_INCREF(reinterpret_cast<PyObject*>(family));
  if (gradients && module.view_hook && tracked(handle)) {
    PyObject* rule = PyTuple_GetSlice(args, 3, count);
    PyObject* done = rule ? PyObject_CallFunctionObjArgs(module.view_hook, object, result, rule, nullptr) : nullptr;
    Py_XDECREF(rule);
    if (!done) Py_CLEAR(result);
    Py_XDECREF(done);
  }
  return result;
}

// alias(array[, record]): the same elements under another handle, whose autodiff record is `record`.
PyObject* alias(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count < 1 || count > 2) return PyErr_Format(PyExc_TypeError, "alias: %zd arguments, expected 1 or 2", count);
  Handle* handle = as_handle(args[0]);
  if (!handle) return nullptr;
  engine().add_handle(handle->buffer);
  Handle* made = make_handle(handle->layout, handle->buffer, handle->offset);
  if (made && count == 2 && args[1] != Py_None) {
    made->node = Py_NewRef(args[1]);
    made->requires_grad = 1;
  }
  return reinterpret_cast<PyObject*>(made);
}

// again(signatures, tag, output or None, *inputs): records the signature that the dict holds under (tag, layouts of the
// arrays given); None where it holds none, or the arrays are not all arrays of one device.
PyObject* again(PyObject*, PyObject* const* args, Py_ssize_t count) {
  constexpr Py_ssize_t kMost = 6;
  if (count < 4 || !PyDict_Check(args[0])) return PyErr_Format(PyExc_TypeError, "again: expected a dict, a tag and arrays");
  const Py_ssize_t n = count - 3;
  Handle* inputs[kMost];
  if (n > kMost) Py_RETURN_NONE;
  Device* device = nullptr;
  const bool into = args[2] != Py_None;
  for (Py_ssize_t i = into ? 2 : 3; i < count; i++) {
    if (!is_array(args[i])) Py_RETURN_NONE;
    auto* handle = reinterpret_cast<Handle*>(args[i]);
    if (device && handle->buffer->device != device) Py_RETURN_NONE;
    device = handle->buffer->device;
    if (i == 2) continue;
    // What overlaps the output may need a copy first.
    if (into && handle->buffer == reinterpret_cast<Handle*>(args[2])->buffer) Py_RETURN_NONE;
    inputs[i - 3] = handle;
  }
  PyObject* key = PyTuple_New(n + 1 + into);
  if (!key) return nullptr;
  PyTuple_SET_ITEM(key, 0, Py_NewRef(args[1]));
  for (Py_ssize_t i = into ? 2 : 3; i < count; i++) {
    auto* layout = reinterpret_cast<PyObject*>(reinterpret_cast<Handle*>(args[i])->layout);
    PyTuple_SET_ITEM(key, i - (into ? 1 : 2), Py_NewRef(layout));
  }
  PyObject* known = PyDict_GetItemWithError(args[0], key);
  Py_DECREF(key);
  if (!known) {
    if (PyErr_Occurred()) return nullptr;
    Py_RETURN_NONE;
  }
  auto* signature = reinterpret_cast<Signature*>(Py_NewRef(known));  // the dict may change while a bound is waited for
  auto* output = reinterpret_cast<Handle*>(args[2]);
  PyObject* result = record(signature, inputs, nullptr, into ? &output : nullptr, device, nullptr);
  Py_DECREF(known);
  return result;
}

PyObject* sequence(PyObject*, PyObject*) { return PyLong_FromUnsignedLongLong(next_sequence()); }

PyObject* site(PyObject*, PyObject*) { return PyLong_FromUnsignedLong(current_site()); }

PyObject* lend(PyObject*, PyObject* object) {
  const unsigned long number = PyLong_AsUnsignedLong(object);
  if (number == static_cast<unsigned long>(-1) && PyErr_Occurred()) return nullptr;
  lend_site(static_cast<uint32_t>(number));
  Py_RETURN_NONE;
}

PyObject* describe(PyObject*, PyObject* object) {
  const unsigned long number = PyLong_AsUnsignedLong(object);
  if (number == static_cast<unsigned long>(-1) && PyErr_Occurred()) return nullptr;
  return describe_site(static_cast<uint32_t>(number));
}

// from_memory(layout, device, buffer, copy): an array of the bytes of a C-contiguous buffer.
PyObject* from_memory(PyObject*, PyObject* args) {
  PyObject *layout_object, *source;
  int device, copy;
  Layout* layout;
  if (!PyArg_ParseTuple(args, "OiOp", &layout_object, &device, &source, &copy) || !get_layout(layout_object, &layout))
    return nullptr;
  if (!device_at(device) || !ready_to_record("make an array")) return nullptr;
  drain_disposed();  // a loop that lends batch after batch and never waits gets back what is not in use any more
  Py_buffer bytes;
  if (PyObject_GetBuffer(source, &bytes, PyBUF_SIMPLE) < 0) return nullptr;
  if (bytes.len != layout->nbytes) {
    PyErr_Format(PyExc_ValueError, "memory of %zd bytes for an array of %lld", bytes.len, (long long)layout->nbytes);
    PyBuffer_Release(&bytes);
    return nullptr;
  }
  Device* target = engine().device(device);
  if (target->memory.source) {
    PyBuffer_Release(&bytes);
    return PyErr_Format(PyExc_ValueError, "the CPU cannot write the memory of %s", target->name.c_str());
  }
  Buffer* buffer;
  {
    std::lock_guard<SpinLock> guard(engine().record_lock());
    buffer = engine().new_buffer(target, layout->nbytes);
  }
  auto* handle = reinterpret_cast<PyObject*>(make_handle(layout, buffer, 0));
  if (bytes.len == 0) {
  } else if (copy) {
    char* memory = target->memory.allocate(layout->nbytes);
    if (!memory) {
      Py_DECREF(handle);
      PyBuffer_Release(&bytes);
      return PyErr_Format(PyExc_MemoryError, "no memory for an array of %lld bytes on %s", (long long)layout->nbytes,
                          target->name.c_str());
    }
    if (layout->nbytes > 1 << 16) {
      PyThreadState* state = PyEval_SaveThread();
      memcpy(memory, bytes.buf, static_cast<size_t>(bytes.len));
      PyEval_RestoreThread(state);
    } else {
      memcpy(memory, bytes.buf, static_cast<size_t>(bytes.len));
    }
    buffer->data = memory;
  } else {
    auto* block = new Block();
    block->memory = static_cast<char*>(bytes.buf);
    block->nbytes = layout->nbytes;
    block->base = Py_NewRef(source);
    buffer->block = block;
    buffer->data = block->memory;
  }
  PyBuffer_Release(&bytes);
  return handle;
}

PyObject* export_memory(PyObject*, PyObject* args) {
  PyObject* object;
  if (!PyArg_ParseTuple(args, "O", &object)) return nullptr;
  Handle* handle = as_handle(object);
  return handle ? export_handle(handle, true) : nullptr;
}

PyObject* element(PyObject*, PyObject* object) {
  Handle* handle = as_handle(object);
  return handle ? element_of(handle) : nullptr;
}

PyObject* wait(PyObject*, PyObject* object) {
  Handle* handle = as_handle(object);
  if (!handle || wait_handle(handle) < 0) return nullptr;
  return Py_NewRef(object);
}

PyObject* is_ready(PyObject*, PyObject* object) {
  Handle* handle = as_handle(object);
  if (!handle) return nullptr;
  const Region region = region_in(handle->buffer, shifted(handle->layout->region, handle->offset));
  if (module.forked) return PyBool_FromLong(engine().pending_writer(handle->buffer, region).slot == 0);
  std::lock_guard<SpinLock> guard(engine().record_lock());
  return PyBool_FromLong(engine().pending_writer(handle->buffer, region).slot == 0);
}

PyObject* wait_all(PyObject*, PyObject*) { return none_or_error(wait_everything() == 0); }

// record(signature, inputs, scalars: bytes, outputs or None, device, callable or None)
PyObject* record_call(PyObject*, PyObject* args) {
  PyObject *signature_object, *inputs, *scalars, *outputs, *callable;
  int device;
  if (!PyArg_ParseTuple(args, "O!O!SOiO", module.signature_type, &signature_object, &PyTuple_Type, &inputs, &scalars, &outputs,
                        &device, &callable))
    return nullptr;
  auto* signature = reinterpret_cast<Signature*>(signature_object);
  std::vector<Handle*> in, out;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(inputs); i++) {
    Handle* handle = as_handle(PyTuple_GET_ITEM(inputs, i));
    if (!handle) return nullptr;
    in.push_back(handle);
  }
  if (outputs != Py_None) {
    if (!PyTuple_Check(outputs)) return PyErr_Format(PyExc_TypeError, "outputs must be a tuple");
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(outputs); i++) {
      Handle* handle = as_handle(PyTuple_GET_ITEM(outputs, i));
      if (!handle) return nullptr;
      out.push_back(handle);
    }
    if (out.size() != signature->operation->outputs.size()) return PyErr_Format(PyExc_ValueError, "%zu outputs given", out.size());
  }
  if (in.size() != signature->operation->inputs.size() || PyBytes_GET_SIZE(scalars) != 8 * signature->operation->scalar_count)
    return PyErr_Format(PyExc_ValueError, "operands do not fit the signature of %s", signature->operation->name.c_str());
  if (!device_at(device)) return nullptr;
  std::vector<uint64_t> values(static_cast<size_t>(signature->operation->scalar_count) + 1);
  memcpy(values.data(), PyBytes_AS_STRING(scalars), static_cast<size_t>(PyBytes_GET_SIZE(scalars)));
  return record(signature, in.data(), values.data(), outputs == Py_None ? nullptr : out.data(), engine().device(device),
                callable == Py_None ? nullptr : callable);
}

PyObject* binary_call(PyObject*, PyObject* args) {
  int op;
  PyObject *left, *right;
  if (!PyArg_ParseTuple(args, "iOO", &op, &left, &right)) return nullptr;
  return binary(op, left, right, false);
}

PyObject* install(PyObject*, PyObject* args) {
  int op, in_place;
  PyObject *left, *right, *signature;
  if (!PyArg_ParseTuple(args, "iOOpO!", &op, &left, &right, &in_place, module.signature_type, &signature)) return nullptr;
  install_binary(op, left, right, in_place, reinterpret_cast<Signature*>(signature));
  Py_RETURN_NONE;
}

// ---- watching

PyObject* stats(PyObject*, PyObject*) {
  const EngineStats s = engine().stats();
  StreamStats t = simulated ? simulated->stats() : StreamStats{};
  if (gpus) {
    const StreamStats own = gpus->stats();
    t = {t.streams + own.streams, t.launches + own.launches, t.events + own.events, t.waits + own.waits};
  }
  return Py_BuildValue("{s:K,s:K,s:K,s:L,s:L,s:L,s:L,s:L,s:K,s:K,s:K,s:K,s:K,s:K}", "recorded", (unsigned long long)s.recorded,
                       "finished", (unsigned long long)s.finished, "inlined", (unsigned long long)s.inlined, "in_flight",
                       (long long)s.in_flight, "pinned_bytes", (long long)s.pinned_bytes, "task_slots", (long long)s.slots,
                       "task_bytes", (long long)s.slot_bytes, "failures", (long long)s.failures, "admission_waits",
                       (unsigned long long)s.admission_waits, "wakeups", (unsigned long long)s.wakeups, "streams",
                       (unsigned long long)t.streams, "stream_launches", (unsigned long long)t.launches, "stream_events",
                       (unsigned long long)t.events, "stream_waits", (unsigned long long)t.waits);
}

PyObject* failures(PyObject*, PyObject* args) {
  int forget = 0;
  if (!PyArg_ParseTuple(args, "|p", &forget)) return nullptr;
  PyObject* list = PyList_New(0);
  for (auto& failure : engine().failures()) {
    PyObject* dict = failure_dict(*failure);
    if (!dict || PyList_Append(list, dict) < 0) return nullptr;
    Py_DECREF(dict);
    if (forget) failure->delivered = true;
  }
  if (forget) engine().forget_failures();
  drain_disposed();
  return list;
}

PyObject* trace(PyObject*, PyObject* args) {
  int on;
  if (!PyArg_ParseTuple(args, "p", &on)) return nullptr;
  if (!on && engine().started() && wait_everything() < 0) return nullptr;
  engine().set_tracing(on);
  static const char* lanes[] = {"compute", "copy", "communication", "python"};
  static const char* kinds[] = {"RAW", "WAR", "WAW"};
  PyObject *tasks = PyList_New(0), *events = PyList_New(0);
  for (const TraceTask& t : engine().take_trace_tasks()) {
    PyObject* accesses = PyTuple_New(static_cast<Py_ssize_t>(t.accesses.size()));
    for (size_t i = 0; i < t.accesses.size(); i++) {
      const TraceAccess& a = t.accesses[i];
      PyTuple_SET_ITEM(accesses, static_cast<Py_ssize_t>(i),
                       Py_BuildValue("KLLLLO", (unsigned long long)a.buffer, (long long)a.region.lo, (long long)a.region.hi,
                                     (long long)a.region.stride, (long long)a.region.width, a.write ? Py_True : Py_False));
    }
    PyObject* predecessors = PyTuple_New(static_cast<Py_ssize_t>(t.predecessors.size()));
    for (size_t i = 0; i < t.predecessors.size(); i++)
      PyTuple_SET_ITEM(predecessors, static_cast<Py_ssize_t>(i),
                       Py_BuildValue("Ks", (unsigned long long)t.predecessors[i].first, kinds[t.predecessors[i].second]));
    PyObject* item = Py_BuildValue("KssssNiLNN", (unsigned long long)t.sequence, engine().text(t.name).c_str(),
                                   engine().text(t.shapes).c_str(), engine().device(t.device)->name.c_str(), lanes[t.lane],
                                   describe_site(t.site), (int)t.priority, (long long)t.recorded_ns, accesses, predecessors);
    if (!item || PyList_Append(tasks, item) < 0) return nullptr;
    Py_DECREF(item);
  }
  for (const TraceEvent& e : engine().take_trace_events()) {
    PyObject* item = Py_BuildValue("KLLsiO", (unsigned long long)e.sequence, (long long)e.begin_ns, (long long)e.end_ns,
                                   engine().worker_name(e.worker).c_str(), (int)e.stream, e.failed ? Py_True : Py_False);
    if (!item || PyList_Append(events, item) < 0) return nullptr;
    Py_DECREF(item);
  }
  return Py_BuildValue("NN", tasks, events);
}

PyObject* unfinished(PyObject*, PyObject* args) {
  int most = 1000;
  if (!PyArg_ParseTuple(args, "|i", &most)) return nullptr;
  static const char* states[] = {"free", "pending", "ready", "running", "launched", "done"};
  PyObject* list = PyList_New(0);
  for (const auto& w : engine().unfinished(static_cast<size_t>(most))) {
    PyObject* predecessors = PyTuple_New(static_cast<Py_ssize_t>(w.predecessors.size()));
    for (size_t i = 0; i < w.predecessors.size(); i++)
      PyTuple_SET_ITEM(predecessors, static_cast<Py_ssize_t>(i),
                       PyLong_FromUnsignedLongLong(w.predecessors[i].sequence));
    PyObject* item = Py_BuildValue("KssssNN", (unsigned long long)w.name.sequence, states[static_cast<int>(w.state)],
                                   engine().text(w.text).c_str(), engine().text(w.shapes).c_str(),
                                   engine().device(w.device)->name.c_str(), describe_site(w.site), predecessors);
    if (!item || PyList_Append(list, item) < 0) return nullptr;
    Py_DECREF(item);
  }
  return list;
}

// last_writer(handle) -> (sequence, name, (file, line, function)), sequence 0 where nothing wrote it
PyObject* last_writer(PyObject*, PyObject* object) {
  Handle* handle = as_handle(object);
  if (!handle) return nullptr;
  const Buffer* b = handle->buffer;
  return Py_BuildValue("KsN", (unsigned long long)b->last_writer, b->last_writer ? engine().text(b->writer_name).c_str() : "",
                       describe_site(b->writer_site));
}

PyObject* pause(PyObject*, PyObject* args) {
  int on;
  if (!PyArg_ParseTuple(args, "p", &on)) return nullptr;
  if (on) engine().pause();
  else engine().resume();
  Py_RETURN_NONE;
}

PyObject* in_task_now(PyObject*, PyObject*) { return PyBool_FromLong(in_task); }

PyObject* set_hooks(PyObject*, PyObject* args, PyObject* kwargs) {
  static const char* names[] = {"binary_slow", "make_error", "start", "gradient_hook", "view_hook", "write_guard",
                                "scalar_types", "lower", nullptr};
  PyObject *slow = nullptr, *error = nullptr, *start = nullptr, *hook = nullptr, *view = nullptr, *guard = nullptr,
           *scalars = nullptr, *lower = nullptr;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OOOOOOO!O", const_cast<char**>(names), &slow, &error, &start, &hook, &view,
                                   &guard, &PyTuple_Type, &scalars, &lower))
    return nullptr;
  for (Py_ssize_t i = 0; scalars && i < PyTuple_GET_SIZE(scalars); i++)
    module.scalar_types.push_back(Py_NewRef(PyTuple_GET_ITEM(scalars, i)));
  if (slow) module.binary_slow = Py_NewRef(slow);
  if (lower) module.lower = Py_NewRef(lower);
  if (error) module.make_error = Py_NewRef(error);
  if (start) module.start = start == Py_None ? nullptr : Py_NewRef(start);
  if (hook) module.gradient_hook = hook == Py_None ? nullptr : Py_NewRef(hook);
  if (view) module.view_hook = view == Py_None ? nullptr : Py_NewRef(view);
  if (guard) module.write_guard = guard == Py_None ? nullptr : Py_NewRef(guard);
  Py_RETURN_NONE;
}

PyObject* gradients_now(PyObject*, PyObject*) { return PyBool_FromLong(gradients); }

PyObject* set_observer(PyObject*, PyObject* callable) {
  PyObject* was = observer ? observer : Py_NewRef(Py_None);
  observer = callable == Py_None ? nullptr : Py_NewRef(callable);
  return was;
}

PyObject* observe(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (!observer) Py_RETURN_NONE;
  PyObject* held = Py_NewRef(observer);
  PyObject* done = PyObject_Vectorcall(held, args, static_cast<size_t>(count), nullptr);
  Py_DECREF(held);
  return done;
}

PyObject* set_gradients(PyObject*, PyObject* args) {
  int on;
  if (!PyArg_ParseTuple(args, "p", &on)) return nullptr;
  const bool was = gradients;
  gradients = on;
  return PyBool_FromLong(was);
}

PyObject* autocast_now(PyObject*, PyObject*) { return Py_NewRef(autocast ? autocast : Py_None); }

PyObject* set_autocast(PyObject*, PyObject* dtype) {
  PyObject* was = autocast ? autocast : Py_NewRef(Py_None);
  autocast = dtype == Py_None ? nullptr : Py_NewRef(dtype);
  return was;
}

PyObject* set_prefix(PyObject*, PyObject* args) {
  const char *package, *user;
  if (!PyArg_ParseTuple(args, "ss", &package, &user)) return nullptr;
  set_package_prefix(package, user);
  Py_RETURN_NONE;
}

PyObject* here(PyObject*, PyObject*) { return describe_site(current_site()); }

PyObject* merger_address(PyObject*, PyObject* args) {
  int kind, itemsize;
  if (!PyArg_ParseTuple(args, "Ci", &kind, &itemsize)) return nullptr;
  return PyLong_FromVoidPtr(reinterpret_cast<void*>(merger(static_cast<char>(kind), itemsize)));
}

PyObject* searcher_address(PyObject*, PyObject* args) {
  int kind, itemsize;
  if (!PyArg_ParseTuple(args, "Ci", &kind, &itemsize)) return nullptr;
  return PyLong_FromVoidPtr(reinterpret_cast<void*>(searcher(static_cast<char>(kind), itemsize)));
}

PyObject* sorter_address(PyObject*, PyObject* args) {
  int kind, itemsize, positions;
  if (!PyArg_ParseTuple(args, "Cip", &kind, &itemsize, &positions)) return nullptr;
  return PyLong_FromVoidPtr(reinterpret_cast<void*>(sorter(static_cast<char>(kind), itemsize, positions != 0)));
}

#define KEYWORDS(function) reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)), METH_VARARGS | METH_KEYWORDS
PyMethodDef methods[] = {
    {"start", KEYWORDS(start), "Starts the worker threads and the Python lane."},
    {"stop", stop, METH_VARARGS, "stop(seconds): finishes what is in flight, ends the threads; False: gave up."},
    {"after_fork", after_fork, METH_NOARGS, "In the child: the threads are gone."},
    {"add_device", KEYWORDS(add_device), "Adds a device; returns its index."},
    {"set_lane_limit", set_lane_limit, METH_VARARGS, "set_lane_limit(device, lane, limit)"},
    {"memory_stats", memory_stats, METH_VARARGS, "memory_stats(device, reset_peak=False)"},
    {"holdings", holdings, METH_VARARGS, "holdings(device, most) -> (nbytes, name, site) of its largest arrays"},
    {"trim_memory", trim_memory, METH_VARARGS, "trim_memory(device): gives cached memory back."},
    {"open_driver", open_driver, METH_VARARGS, "open_driver(driver, cublas) -> (number of GPUs, why there is no cuBLAS)"},
    {"describe_gpu", describe_gpu, METH_VARARGS, "describe_gpu(ordinal) -> (name, bytes, compute capability, peers)"},
    {"load_kernel", load_kernel, METH_VARARGS, "load_kernel(ordinal, image, name, shared_bytes) -> address"},
    {"begin_capture", begin_capture, METH_VARARGS, "begin_capture(device): what is recorded from here on makes a graph."},
    {"end_capture", end_capture, METH_VARARGS, "end_capture(abandon) -> the Graph, run once; None where it is abandoned"},
    {"set_bodies", set_bodies, METH_VARARGS, "set_bodies(signature, target, bodies, lane, priority, fallback)"},
    {"layout", layout, METH_VARARGS, "layout(dtype, code, itemsize, shape, strides=None)"},
    {"empty", empty, METH_VARARGS, "empty(layout, device): an array whose values are not set."},
    {"view", view, METH_VARARGS, "view(array, layout, offset, rule, *arguments): another view of the array's buffer."},
    {"alias", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(alias)), METH_FASTCALL,
     "alias(array[, record]): the same elements under another handle, whose autodiff record is `record`."},
    {"again", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(again)), METH_FASTCALL,
     "again(signatures, tag, output or None, *inputs): records what the dict holds under (tag, *layouts), or None."},
    {"sequence", sequence, METH_NOARGS, "sequence() -> a number; nodes made from now on have larger ones"},
    {"site", site, METH_NOARGS, "site() -> a number for the innermost line outside the package"},
    {"lend_site", lend, METH_O, "lend_site(number): the line that this thread's operations name where it has none"},
    {"describe_site", describe, METH_O, "describe_site(number) -> (file, line, function)"},
    {"from_memory", from_memory, METH_VARARGS, "from_memory(layout, device, buffer, copy)"},
    {"export", export_memory, METH_VARARGS, "export(array): waits, then the memory of its buffer, read-only."},
    {"element", element, METH_O, "element(array): waits, then the bytes of its only element."},
    {"wait", wait, METH_O, "wait(array): blocks until it is computed; raises what failed; returns it."},
    {"is_ready", is_ready, METH_O, "is_ready(array): whether a wait would return at once."},
    {"wait_all", wait_all, METH_NOARGS, "Blocks until nothing is in flight."},
    {"record", record_call, METH_VARARGS, "record(signature, inputs, scalars, outputs, device, callable)"},
    {"binary", binary_call, METH_VARARGS, "binary(operator, left, right)"},
    {"install_binary", install, METH_VARARGS, "install_binary(operator, left, right, in_place, signature)"},
    {"push_batch", push_batch, METH_VARARGS, 
     "push_batch(first, predecessors, device, name, function=0, priorities=None, calls=None)"},
    {"merger", merger_address, METH_VARARGS, "merger(kind, itemsize): address of a body, see sorting.h; 0: none."},
    {"searcher", searcher_address, METH_VARARGS, "searcher(kind, itemsize): address of a body, see sorting.h; 0: none."},
    {"sorter", sorter_address, METH_VARARGS, "sorter(kind, itemsize, positions): address of a body, see sorting.h; 0: none."},
    {"stats", stats, METH_NOARGS, "Counters of the engine."},
    {"failures", failures, METH_VARARGS, "failures(forget=False): the failed tasks, in program order."},
    {"trace", trace, METH_VARARGS, "trace(on): switches tracing; returns what was traced so far."},
    {"unfinished", unfinished, METH_VARARGS, "unfinished(most=1000): tasks in flight and what each waits for."},
    {"last_writer", last_writer, METH_O, "last_writer(array) -> (sequence, name, site)"},
    {"pause", pause, METH_VARARGS, "pause(on): lanes take no further task until something waits."},
    {"in_task", in_task_now, METH_NOARGS, "Whether this thread is running a task."},
    {"set_hooks", KEYWORDS(set_hooks), "Registers what the layers above provide."},
    {"set_gradients", set_gradients, METH_VARARGS, "set_gradients(on) -> what it was in this thread"},
    {"set_observer", set_observer, METH_O, "set_observer(callable or None) -> what it was in this thread"},
    {"observe", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(observe)), METH_FASTCALL,
     "observe(node, result): tells this thread's observer."},
    {"gradients", gradients_now, METH_NOARGS, "gradients() -> whether this thread records how gradients flow"},
    {"autocast", autocast_now, METH_NOARGS, "autocast() -> the dtype that products of this thread compute in, or None"},
    {"set_autocast", set_autocast, METH_O, "set_autocast(dtype or None) -> what it was in this thread"},
    {"set_prefix", set_prefix, METH_VARARGS, "set_prefix(package folder, folder in it that counts as user code)"},
    {"here", here, METH_NOARGS, "The user's line, as a task recorded now would remember it."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "dagrun._native", "The native core: executor, handles, memory.", -1, methods,
                          nullptr, nullptr, nullptr, nullptr};

}  // namespace
}  // namespace dagrun

PyMODINIT_FUNC PyInit__native() {
  using namespace dagrun;
  PyObject* m = PyModule_Create(&definition);
  if (!m) return nullptr;
  module.executor = new Executor();  // never destroyed: worker threads may outlive the interpreter
  module.executor->python_body = run_python_body;
  module.executor->dispose = dispose;
  if (!add_types(m) || !add_tape(m) || !add_graph_type(m)) return nullptr;
  return m;
}
