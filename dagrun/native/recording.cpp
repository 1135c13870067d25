// The one place where tasks are made from user calls: cached signatures, user lines, new buffers, pushes.
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "objects.h"

namespace dagrun {

// ---------------------------------------------------------------------------------------------------- user lines

namespace {

struct Site {
  PyCodeObject* code;  // held for ever: programs have few lines, and the key must stay unique
  int instruction;
};
std::vector<Site> sites{{nullptr, 0}};

constexpr uint32_t kInternal = 0xFFFFFFFF;  // a line of the package itself
struct SiteEntry {
  PyCodeObject* code = nullptr;
  int instruction = -1;
  uint32_t site = 0;
};
constexpr size_t kSiteCache = 1024;
SiteEntry site_cache[kSiteCache];
struct SiteKey {
  PyCodeObject* code;
  int instruction;
  bool operator==(const SiteKey& o) const { return code == o.code && instruction == o.instruction; }
};
struct SiteHash {
  size_t operator()(const SiteKey& k) const { return reinterpret_cast<size_t>(k.code) * 31 + static_cast<size_t>(k.instruction); }
};
std::unordered_map<SiteKey, uint32_t, SiteHash> site_ids;
std::string package_prefix = "\x01", user_prefix = "\x01";

bool is_internal(PyCodeObject* code) {
  Py_ssize_t length = 0;
  const char* name = PyUnicode_AsUTF8AndSize(code->co_filename, &length);
  if (!name) {
    PyErr_Clear();
    return false;
  }
  constexpr const char kThreads[] = "/threading.py";  // what starts a thread is nobody's line
  constexpr Py_ssize_t kLength = sizeof(kThreads) - 1;
  if (length >= kLength && !strcmp(name + length - kLength, kThreads)) return true;
  return !strncmp(name, package_prefix.c_str(), package_prefix.size()) &&
         strncmp(name, user_prefix.c_str(), user_prefix.size());
}

uint32_t find_site(PyCodeObject* code, int instruction) {
  SiteEntry& entry = site_cache[(reinterpret_cast<size_t>(code) / 16 + static_cast<size_t>(instruction)) % kSiteCache];
  if (entry.code == code && entry.instruction == instruction) return entry.site;
  auto known = site_ids.find({code, instruction});
  uint32_t site;
  if (known != site_ids.end()) {
    site = known->second;
  } else {
    Py_INCREF(code);
    if (is_internal(code)) {
      site = kInternal;
    } else {
      site = static_cast<uint32_t>(sites.size());
      sites.push_back({code, instruction});
    }
    site_ids[{code, instruction}] = site;
  }
  entry = {code, instruction, site};
  return site;
}

}  // namespace

void set_package_prefix(const char* prefix, const char* user) {
  package_prefix = prefix;
  user_prefix = user;
}

namespace {
thread_local uint32_t lent_site = 0;
}

void lend_site(uint32_t site) { lent_site = site; }

// The innermost line outside the package; in a thread of the package's own, the line lent to it.
uint32_t current_site() {
  PyFrameObject* frame = PyThreadState_GetFrame(PyThreadState_Get());
  while (frame) {
    PyCodeObject* code = PyFrame_GetCode(frame);
    const uint32_t site = find_site(code, PyFrame_GetLasti(frame));
    Py_DECREF(code);
    if (site != kInternal) {
      Py_DECREF(frame);
      return site;
    }
    PyFrameObject* outer = PyFrame_GetBack(frame);
    Py_DECREF(frame);
    frame = outer;
  }
  return lent_site;
}

PyObject* describe_site(uint32_t site) {
  if (site == 0 || site >= sites.size()) return Py_BuildValue("sis", "<unknown>", 0, "<unknown>");
  const Site& s = sites[site];
  const int line = PyCode_Addr2Line(s.code, s.instruction);
  return Py_BuildValue("OiO", s.code->co_filename, line, s.code->co_qualname);
}

// ---------------------------------------------------------------------------------------------------- retirement

namespace {
std::vector<Operation*> retired;  // their signatures are gone, their tasks perhaps not
}

void retire(Operation* operation) {
  if (!operation || module.forked) return;
  retired.push_back(operation);
  if (retired.size() < 64 || module.executor->in_flight() > 0 || module.executor->live_failures() > 0) return;
  // What they held may be the last reference to other signatures, whose operations retire meanwhile.
  std::vector<Operation*> now;
  now.swap(retired);
  for (Operation* dead : now) {
    for (Layout* layout : dead->outputs) Py_DECREF(reinterpret_cast<PyObject*>(layout));
    for (Layout* layout : dead->inputs) Py_DECREF(reinterpret_cast<PyObject*>(layout));
    for (auto& lowered : dead->lowered) Py_XDECREF(lowered ? lowered->fallback : nullptr);
    Py_XDECREF(dead->explain);
    delete dead;
  }
}

// ---------------------------------------------------------------------------------------------------- record

bool ready_to_record(const char* what) {
  if (in_task) {
    PyErr_Format(PyExc_RuntimeError,
                 "cannot %s inside a task: a custom operator's function gets NumPy arrays and must compute with NumPy; "
                 "record dagrun operations outside of it",
                 what);
    return false;
  }
  if (module.forked) {
    PyErr_Format(PyExc_RuntimeError,
                 "cannot %s in a forked child process: its worker threads stayed in the parent; use the 'spawn' start method, "
                 "or fork before the first dagrun operation (finished CPU arrays may still be read here)",
                 what);
    return false;
  }
  if (!module.executor->started()) {
    if (!module.start) {
      PyErr_SetString(PyExc_RuntimeError, "the engine has been shut down");
      return false;
    }
    PyObject* result = PyObject_CallNoArgs(module.start);
    if (!result) return false;
    Py_DECREF(result);
  }
  return true;
}

namespace {

Body* detach_body() {
  static Body* body = [] {
    auto* made = new Body();
    made->name = module.executor->intern("detach");
    made->detaches = true;
    made->cost = 1 << 20;
    return made;
  }();
  return body;
}

// Exported or lent memory must not change under its holder: the write goes to a fresh copy.
void push_detach(Executor& executor, Buffer* buffer, uint32_t site, std::vector<TaskName>& owned) {
  Body* body = detach_body();
  OperandSpec spec;
  spec.region = {0, buffer->nbytes, 0, 0};
  spec.mode = kWrite;  // what is poisoned moves with the rest: neither read nor overwritten
  // One body per buffer size: the specification is immutable once a task names it.
  static std::unordered_map<int64_t, Body*> bodies;
  Body*& sized = bodies[buffer->nbytes];
  if (!sized) {
    sized = new Body(*body);
    sized->operands.push_back(spec);
  }
  Operand operand{buffer, 0};
  Call call;
  call.body = sized;
  call.operands = &operand;
  call.device = buffer->device->index;
  call.site = site;
  const TaskName name = executor.push(call);
  if (executor.settings().serial) owned.push_back(name);
}

// Writing into a tracked array may be refused, before anything is recorded.
bool may_write(Handle* const* outputs, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (!tracked(outputs[i]) && !(outputs[i]->family && outputs[i]->family->root)) continue;
    PyObject* done = PyObject_CallOneArg(module.write_guard, reinterpret_cast<PyObject*>(outputs[i]));
    if (!done) return false;
    Py_DECREF(done);
  }
  return true;
}

// Tells autodiff of an operation on tracked arrays.
bool tell_autodiff(Signature* signature, Handle* const* inputs, size_t n_in, const uint64_t* scalars, PyObject* callable,
                   PyObject* result, bool in_place) {
  PyObject* tuple = PyTuple_New(static_cast<Py_ssize_t>(n_in));
  PyObject* values = callable ? Py_NewRef(callable)
                              : PyBytes_FromStringAndSize(reinterpret_cast<const char*>(scalars), 8 * signature->operation->scalar_count);
  PyObject* done = nullptr;
  if (tuple && values) {
    for (size_t i = 0; i < n_in; i++)
      PyTuple_SET_ITEM(tuple, static_cast<Py_ssize_t>(i), Py_NewRef(reinterpret_cast<PyObject*>(inputs[i])));
    done = PyObject_CallFunctionObjArgs(module.gradient_hook, signature->context, tuple, result, values,
                                        in_place ? Py_True : Py_False, nullptr);
  }
  Py_XDECREF(tuple);
  Py_XDECREF(values);
  Py_XDECREF(done);
  return done;
}

// What an operation runs on a GPU, asked of the layer above where nobody did before; nullptr with an error set.
const Lowered* lower(Signature* signature, uint8_t target) {
  const auto& known = signature->operation->lowered;
  if (target < known.size() && known[target]) return known[target].get();
  PyObject* gpu = PyLong_FromLong(target - 1);
  PyObject* done = gpu && module.lower
                       ? PyObject_CallFunctionObjArgs(module.lower, reinterpret_cast<PyObject*>(signature), gpu, nullptr)
                       : nullptr;
  Py_XDECREF(gpu);
  if (!done && !PyErr_Occurred()) PyErr_SetString(PyExc_RuntimeError, "nothing lowers operations for GPUs");
  if (!done) return nullptr;
  Py_DECREF(done);
  if (target < known.size() && known[target]) return known[target].get();
  PyErr_Format(PyExc_RuntimeError, "%s has no body for GPU %d", signature->operation->name.c_str(), target - 1);
  return nullptr;
}

}  // namespace

const std::vector<std::unique_ptr<Body>>* bodies_on(const Device* device, Signature* signature, PyObject** callable) {
  if (!device->target) return &signature->operation->bodies;
  const Lowered* lowered = lower(signature, device->target);
  if (!lowered) return nullptr;
  if (!lowered->fallback || !*callable) *callable = lowered->fallback;  // one that was given has the scalars in it
  return &lowered->bodies;
}

PyObject* record(Signature* signature, Handle* const* inputs, const uint64_t* scalars, Handle* const* outputs,
                 Device* device, PyObject* callable) {
  Executor& executor = *module.executor;
  if (!ready_to_record("record an operation")) return nullptr;
  Operation* operation = signature->operation;
  PyObject* run = callable;
  const std::vector<std::unique_ptr<Body>>* bodies = bodies_on(device, signature, &run);
  if (!bodies) return nullptr;
  if (module.capture && !may_capture(operation, device, inputs, outputs, run)) return nullptr;
  const bool differentiates = gradients && signature->context && module.gradient_hook;
  if (outputs && gradients && module.write_guard && !may_write(outputs, operation->outputs.size())) return nullptr;
  const size_t n_out = operation->outputs.size(), n_in = operation->inputs.size();
  const uint32_t site = current_site();
  int64_t nbytes = 0;
  if (!outputs) {
    for (Layout* layout : operation->outputs) nbytes += layout->nbytes;
  }
  while (!captures_here() && executor.over_bound(static_cast<int64_t>(bodies->size()), nbytes)) {  // again after a wait: another thread may have been first
    if (wait_for_space() < 0) return nullptr;
  }

  Operand few[8];
  Handle* few_results[4];
  std::vector<Operand> many;
  std::vector<Handle*> many_results;
  Operand* operands = few;
  Handle** results = few_results;
  if (n_out + n_in > 8) {
    many.resize(n_out + n_in);
    operands = many.data();
  }
  if (n_out > 4) {
    many_results.resize(n_out);
    results = many_results.data();
  }
  for (size_t i = 0; i < n_in; i++) operands[n_out + i] = {inputs[i]->buffer, inputs[i]->offset};
  std::vector<TaskName> owned;
  {
    std::unique_lock<SpinLock> guard(executor.record_lock());
    for (size_t i = 0; i < n_out; i++) {
      if (outputs) {
        operands[i] = {outputs[i]->buffer, outputs[i]->offset};
        if (executor.needs_detach(operands[i].buffer)) push_detach(executor, operands[i].buffer, site, owned);
      } else {
        operands[i] = {executor.new_buffer(device, operation->outputs[i]->nbytes), 0};
      }
    }
    Call call;
    call.operands = operands;
    call.scalars = scalars;
    call.scalar_count = operation->scalar_count;
    call.device = device->index;
    call.site = site;
    for (auto& body : *bodies) {
      call.body = body.get();
      if (run) {
        call.callable = Py_NewRef(run);
      } else if (executor.may_inline(call)) {
        executor.run_inline(call);
        continue;
      }
      const TaskName name = executor.push(call);
      if (executor.settings().serial) owned.push_back(name);
    }
    for (auto& body : *bodies) {
      if (captures_here()) keep_captured(operands, *body);
    }
  }
  bool failed = false;
  for (TaskName name : owned) {
    if (!run_serially(name, !run)) failed = true;
  }
  for (size_t i = 0; i < n_out; i++) {
    if (outputs) {
      results[i] = reinterpret_cast<Handle*>(Py_NewRef(reinterpret_cast<PyObject*>(outputs[i])));
    } else {
      results[i] = make_handle(operation->outputs[i], operands[i].buffer, 0);
      if (!results[i]) return nullptr;
    }
  }
  PyObject* result;
  if (n_out == 1) {
    result = reinterpret_cast<PyObject*>(results[0]);
  } else {
    result = PyTuple_New(static_cast<Py_ssize_t>(n_out));
    for (size_t i = 0; result && i < n_out; i++)
      PyTuple_SET_ITEM(result, static_cast<Py_ssize_t>(i), reinterpret_cast<PyObject*>(results[i]));
  }
  if (failed) {
    Py_XDECREF(result);
    return nullptr;
  }
  if (differentiates) {
    bool wanted = false;
    for (size_t i = 0; i < n_in; i++) wanted |= tracked(inputs[i]);
    for (size_t i = 0; outputs && i < n_out; i++) wanted |= tracked(outputs[i]);
    int done = 0;
    if (wanted && !outputs && !callable && n_out == 1) done = remember(signature, inputs, n_in, scalars, results[0], site);
    if (!done && wanted && !tell_autodiff(signature, inputs, n_in, scalars, callable, result, outputs != nullptr)) done = -1;
    if (done < 0) {
      Py_DECREF(result);
      return nullptr;
    }
  }
  return result;
}

// ---------------------------------------------------------------------------------------------------- binary operators

namespace {

// What the fast path knows an operand by: its layout's address, or the type of a scalar; 0: nothing.
uintptr_t operand_key(PyObject* object) {
  if (is_array(object)) return reinterpret_cast<uintptr_t>(reinterpret_cast<Handle*>(object)->layout);
  PyTypeObject* type = Py_TYPE(object);
  if (type == &PyFloat_Type || type == &PyBool_Type || type == &PyLong_Type) return reinterpret_cast<uintptr_t>(type);
  for (PyObject* known : module.scalar_types) {
    if (known == reinterpret_cast<PyObject*>(type)) return reinterpret_cast<uintptr_t>(type);
  }
  return 0;
}

struct BinaryEntry {
  uintptr_t left = 0, right = 0;
  int op = -1;
  bool in_place = false;
  Signature* signature = nullptr;
};
constexpr int kProduct = 7;  // the number slot of @
constexpr size_t kBinaryCache = 8192;
BinaryEntry binary_cache[kBinaryCache];

BinaryEntry& binary_entry(int op, uintptr_t left, uintptr_t right, bool in_place) {
  const size_t hash = ((left >> 4) * 0x9E3779B97F4A7C15ULL ^ (right >> 4) * 0xC2B2AE3D27D4EB4FULL ^ right) +
                      static_cast<size_t>(op * 2 + in_place) * 0x165667B19E3779F9ULL;
  return binary_cache[(hash >> 20) % kBinaryCache];
}

bool pack_integer(const Operation& operation, PyObject* value, uint64_t* out) {
  if (operation.scalar_kind == 'u') {
    *out = PyLong_AsUnsignedLongLong(value);
    return !PyErr_Occurred() && *out <= operation.scalar_high;
  }
  const long long number = PyLong_AsLongLong(value);
  *out = static_cast<uint64_t>(number);
  return !PyErr_Occurred() && number >= operation.scalar_low &&
         (number < 0 || static_cast<uint64_t>(number) <= operation.scalar_high);
}

// false: the value does not fit, and the slow path says what becomes of it.
bool pack_scalar(const Operation& operation, PyObject* value, uint64_t* out) {
  if (operation.scalar_kind == 'i' || operation.scalar_kind == 'u') {
    PyObject* index = PyNumber_Index(value);  // of a Python integer: itself
    const bool good = index && pack_integer(operation, index, out);
    Py_XDECREF(index);
    PyErr_Clear();
    return good;
  }
  switch (operation.scalar_kind) {
    case 'f':
    case 's': {
      const double number = PyLong_Check(value) ? PyLong_AsDouble(value) : PyFloat_AsDouble(value);
      if (number == -1.0 && PyErr_Occurred()) {
        PyErr_Clear();
        return false;
      }
      if (operation.scalar_kind == 'f') {
        memcpy(out, &number, 8);
      } else {
        const float narrow = static_cast<float>(number);
        *out = 0;
        memcpy(out, &narrow, 4);
      }
      return true;
    }
    case '?':
      *out = value == Py_True;
      return PyBool_Check(value);
  }
  return false;
}

}  // namespace

PyObject* binary(int op, PyObject* left, PyObject* right, bool in_place) {
  const uintptr_t left_key = operand_key(left), right_key = operand_key(right);
  if (left_key && right_key && !(autocast && op == kProduct)) {
    BinaryEntry& entry = binary_entry(op, left_key, right_key, in_place);
    if (entry.left == left_key && entry.right == right_key && entry.op == op && entry.in_place == in_place) {
      Handle* inputs[2];
      int n = 0;
      uint64_t scalar = 0;
      bool good = true;
      if (is_array(left)) inputs[n++] = reinterpret_cast<Handle*>(left);
      else good = pack_scalar(*entry.signature->operation, left, &scalar);
      if (is_array(right)) inputs[n++] = reinterpret_cast<Handle*>(right);
      else good = pack_scalar(*entry.signature->operation, right, &scalar);
      if (n == 2) {
        if (inputs[0]->buffer->device != inputs[1]->buffer->device) good = false;
        // Writing over an operand that overlaps the other one differently needs a copy first: the slow path makes it.
        if (in_place && inputs[0]->buffer == inputs[1]->buffer && inputs[0] != inputs[1]) good = false;
      }
      // A gradient may read what is about to be overwritten: the slow path keeps it.
      if (in_place && gradients && (tracked(inputs[0]) || (n == 2 && tracked(inputs[1])))) good = false;
      if (good) {
        Handle* output = reinterpret_cast<Handle*>(left);
        // The entry may be replaced while the bound is waited for without the GIL.
        PyObject* held = Py_NewRef(reinterpret_cast<PyObject*>(entry.signature));
        PyObject* result = record(entry.signature, inputs, &scalar, in_place ? &output : nullptr, inputs[0]->buffer->device, nullptr);
        Py_DECREF(held);
        return result;
      }
    }
  }
  if (!module.binary_slow) {
    PyErr_SetString(PyExc_RuntimeError, "operators are not registered yet");
    return nullptr;
  }
  PyObject* number = PyLong_FromLong(op);
  PyObject* result = PyObject_CallFunctionObjArgs(module.binary_slow, number, left, right,
                                                  in_place ? Py_True : Py_False, nullptr);
  Py_DECREF(number);
  return result;
}

void install_binary(int op, PyObject* left, PyObject* right, bool in_place, Signature* signature) {
  const uintptr_t left_key = operand_key(left), right_key = operand_key(right);
  if (!left_key || !right_key) return;
  BinaryEntry& entry = binary_entry(op, left_key, right_key, in_place);
  Signature* old = entry.signature;
  Py_INCREF(reinterpret_cast<PyObject*>(signature));  // and with it its layouts: the keys stay unique
  entry = {left_key, right_key, op, in_place, signature};
  Py_XDECREF(reinterpret_cast<PyObject*>(old));
}

}  // namespace dagrun
