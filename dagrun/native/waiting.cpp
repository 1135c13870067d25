// Where Python blocks: waits with signals and the Python lane served, failures raised, objects given back.
#include <algorithm>
#include <mutex>

#include "objects.h"

namespace dagrun {

namespace {

std::mutex disposed_mutex;
std::vector<PyObject*> disposed;  // objects dropped by threads without the GIL
std::atomic<bool> interrupted{false};

// Runs while a wait has let the GIL go: takes it, serves signals and ready Python tasks. false: an exception is set.
struct Poll {
  PyThreadState* state = nullptr;
  bool failed = false;
  bool operator()() {
    PyEval_RestoreThread(state);
    if (PyErr_CheckSignals()) failed = true;
    while (!failed) {
      const uint32_t slot = module.executor->take_python(false);
      if (!slot) break;
      module.executor->run_python(slot);
      if (interrupted.exchange(false)) {
        PyErr_SetNone(PyExc_KeyboardInterrupt);
        failed = true;
      }
    }
    state = PyEval_SaveThread();
    return !failed;
  }
};

template <typename Wait>
bool without_gil(Wait wait) {
  Poll poll;
  poll.state = PyEval_SaveThread();
  const bool done = wait([&poll] { return poll(); });
  PyEval_RestoreThread(poll.state);
  drain_disposed();
  return done && !poll.failed;
}

constexpr char kNeverDone[] = "nothing that is captured is done before the capture ends; wait after the block";

bool may_wait() {
  if (!in_task) return true;
  PyErr_SetString(PyExc_RuntimeError,
                  "cannot wait for an array inside a task: the task would wait for the lane that runs it; "
                  "pass the array to the operator instead");
  return false;
}

}  // namespace

void dispose(void* object) {
  std::lock_guard<std::mutex> guard(disposed_mutex);
  disposed.push_back(static_cast<PyObject*>(object));
}

void drain_disposed() {
  std::vector<PyObject*> dead;
  {
    std::lock_guard<std::mutex> guard(disposed_mutex);
    dead.swap(disposed);
  }
  for (PyObject* object : dead) Py_DECREF(object);
}

// (nbytes, name of what wrote it last, its line) of each.
PyObject* describe_holdings(const std::vector<Holding>& holdings) {
  PyObject* described = PyTuple_New(static_cast<Py_ssize_t>(holdings.size()));
  for (size_t i = 0; i < holdings.size(); i++) {
    const Holding& h = holdings[i];
    PyTuple_SET_ITEM(described, static_cast<Py_ssize_t>(i),
                     Py_BuildValue("LsN", (long long)h.nbytes, module.executor->text(h.name).c_str(), describe_site(h.site)));
  }
  return described;
}

PyObject* failure_dict(const Failure& failure) {
  Executor& executor = *module.executor;
  PyObject* site = describe_site(failure.site);
  PyObject* details = Py_BuildValue("(LLLL)", (long long)failure.details[0], (long long)failure.details[1],
                                    (long long)failure.details[2], (long long)failure.details[3]);
  auto* operation = static_cast<Operation*>(failure.owner);
  PyObject* explain = operation && operation->explain ? operation->explain : Py_None;
  PyObject* exception = failure.exception ? static_cast<PyObject*>(failure.exception) : Py_None;
  PyObject* holdings = describe_holdings(failure.holdings);
  const bool of_driver = failure.code == kDeviceFault || failure.code == kRefused;
  return Py_BuildValue("{s:K,s:s,s:s,s:s,s:N,s:i,s:N,s:O,s:O,s:O,s:N,s:s}", "sequence", (unsigned long long)failure.sequence,
                       "name", executor.text(failure.name).c_str(), "shapes", executor.text(failure.shapes).c_str(),
                       "device", executor.device(failure.device)->name.c_str(), "site", site, "code", failure.code,
                       "details", details, "explain", explain, "exception", exception, "delivered",
                       failure.delivered ? Py_True : Py_False, "holdings", holdings, "driver",
                       of_driver ? executor.text(static_cast<uint32_t>(failure.details[1])).c_str() : "");
}

// The sequence number of the first task of the operation that failed.
static uint64_t first_piece(const Failure& failure) {
  return failure.sequence - failure.body->piece;
}

void raise_failure(const std::shared_ptr<Failure>& failure) {
  // The pieces of one operation fail each on its own: one error tells of them all. They were recorded in a row.
  for (auto& other : module.executor->failures()) {
    if (other->owner && other->owner == failure->owner && first_piece(*other) == first_piece(*failure)) other->delivered = true;
  }
  failure->delivered = true;
  PyObject* dict = failure_dict(*failure);
  if (!dict) return;
  PyObject* error = module.make_error ? PyObject_CallOneArg(module.make_error, dict) : nullptr;
  Py_DECREF(dict);
  if (!error) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_RuntimeError, "a task failed");
    return;
  }
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error)), error);
  Py_DECREF(error);
}

int wait_handle(Handle* handle) {
  Executor& executor = *module.executor;
  if (!may_wait()) return -1;
  const Region region = region_in(handle->buffer, shifted(handle->layout->region, handle->offset));
  if (module.forked) {  // no locks: the fork may have happened while another thread held one
    if (!executor.pending_writer(handle->buffer, region).slot) {
      auto failure = executor.poison_of(handle->buffer, region, false);
      if (failure) raise_failure(failure);
      return failure ? -1 : 0;
    }
    PyErr_SetString(PyExc_RuntimeError,
                    "this array was not finished when the process forked, and its worker threads stayed in the parent; "
                    "wait for it before forking, or use the 'spawn' start method");
    return -1;
  }
  for (;;) {
    TaskName name;
    {
      std::lock_guard<SpinLock> guard(executor.record_lock());
      name = executor.pending_writer(handle->buffer, region);
    }
    if (!name.slot) break;
    if (captures_here()) {
      refuse_in_capture("a wait", kNeverDone);
      return -1;
    }
    if (!without_gil([&](auto poll) { return executor.wait_task(name, poll); })) {
      if (!PyErr_Occurred()) PyErr_CheckSignals();
      return -1;
    }
  }
  if (auto failure = executor.poison_of(handle->buffer, region)) {
    raise_failure(failure);
    return -1;
  }
  return 0;
}

int wait_everything() {
  if (captures_here()) {
    refuse_in_capture("a wait", kNeverDone);
    return -1;
  }
  return finish_everything();
}

int finish_everything() {
  if (!may_wait()) return -1;
  Executor& executor = *module.executor;
  if (module.forked) return 0;
  if (executor.started() && !without_gil([&](auto poll) { return executor.wait_all(poll); })) return -1;
  return 0;
}

int wait_for_space() {
  Executor& executor = *module.executor;
  const bool done = without_gil([&](auto poll) {
    bool good = true;
    executor.wait_for_space([&] { return good = poll(); });
    return good;
  });
  return done ? 0 : -1;
}

bool run_serially(TaskName name, bool release_gil) {
  Executor& executor = *module.executor;
  if (executor.slot(name.slot).state.load() == State::kPending &&
      !without_gil([&](auto poll) { return executor.wait_ready(name, poll); }))
    return false;
  if (release_gil && executor.slot(name.slot).body->cost > 1 << 16) {
    PyThreadState* state = PyEval_SaveThread();
    executor.run_owned(name);
    PyEval_RestoreThread(state);
  } else {
    executor.run_owned(name);
  }
  if (interrupted.exchange(false)) {
    PyErr_SetNone(PyExc_KeyboardInterrupt);
    return false;
  }
  return true;
}

// With the GIL. Operands reach the callable as (memory, offset) pairs; the memory outlives the call if it is kept.
int run_python_body(const Body* body, Arguments& arguments, char**, Failure* failure) {
  Executor& executor = *module.executor;
  const auto& specs = body->operands;
  PyObject* operands = PyTuple_New(static_cast<Py_ssize_t>(specs.size()));
  for (size_t i = 0; operands && i < specs.size(); i++) {
    const Operand& operand = arguments.operands[specs[i].index];
    Block* block;
    {
      std::lock_guard<SpinLock> guard(executor.record_lock());
      block = executor.export_block(operand.buffer);
    }
    PyObject* memory = make_export(block, !(specs[i].mode & kWrite));
    PyTuple_SET_ITEM(operands, static_cast<Py_ssize_t>(i),
                     Py_BuildValue("NL", memory, (long long)(operand.offset + specs[i].offset)));
  }
  in_task = true;
  PyObject* scalars = body->hands_scalars
                          ? PyBytes_FromStringAndSize(reinterpret_cast<const char*>(arguments.scalars), 8 * arguments.scalar_count)
                          : nullptr;
  PyObject* result = operands ? PyObject_CallFunctionObjArgs(static_cast<PyObject*>(arguments.callable), operands, scalars, nullptr)
                              : nullptr;
  Py_XDECREF(scalars);
  in_task = false;
  Py_XDECREF(operands);
  if (result) {
    Py_DECREF(result);
    return 0;
  }
  if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) interrupted = true;
#if PY_VERSION_HEX >= 0x030C0000
  failure->exception = PyErr_GetRaisedException();
#else
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  if (traceback) PyException_SetTraceback(value, traceback);
  Py_XDECREF(type);
  Py_XDECREF(traceback);
  failure->exception = value;
#endif
  return 1;
}

// The Python lane: one thread that holds the GIL only while it runs a task.
void python_lane_main() {
  PyGILState_STATE gil = PyGILState_Ensure();
  PyThreadState* state = PyEval_SaveThread();
  Worker* worker = module.executor->current_worker();
  const std::string own_name = worker->name;
  worker->name = "python";
  while (const uint32_t slot = module.executor->take_python(true)) {
    PyEval_RestoreThread(state);
    module.executor->run_python(slot);
    drain_disposed();
    state = PyEval_SaveThread();
  }
  worker->name = own_name;
  PyEval_RestoreThread(state);
  PyGILState_Release(gil);
}

}  // namespace dagrun
