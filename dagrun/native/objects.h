// The Python types of the native module: layouts, signatures, handles, exports; and the state they share.
#pragma once
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <memory>
#include <string>
#include <vector>

#include "executor.h"

namespace dagrun {

// How the elements of a view lie: dtype, shape, strides. Interned: equal layouts are one object, compared by address.
struct Layout {
  PyObject_HEAD
  PyObject* dtype;
  PyObject* shape;    // tuple
  PyObject* strides;  // tuple, bytes
  int code, ndim;
  int64_t itemsize, size, nbytes;
  bool contiguous;  // C order, without gaps
  bool exact;       // region holds the elements' bytes and no others
  Region region;    // relative to the first element
  uint64_t hash;
  std::vector<int64_t>* dims;  // shape, then strides
};

// The bodies of an operation on one GPU, or the Python callable that stands in for them.
struct Lowered {
  std::vector<std::unique_ptr<Body>> bodies;
  PyObject* fallback = nullptr;  // (operands, scalars: bytes)
};

// One operation on given layouts: what its tasks share. Lives until no task or failure can name it.
struct Operation {
  std::string name, shapes;
  std::vector<std::unique_ptr<Body>> bodies;  // on CPUs
  std::vector<std::unique_ptr<Lowered>> lowered;  // on GPUs, by Device::target; nullptr: nobody asked yet
  std::vector<Layout*> outputs, inputs;
  int scalar_count = 0;
  char scalar_kind = 0;        // how a Python scalar is packed: 'f' float64, 's' float32, 'i' signed, 'u' unsigned, '?' bool
  int64_t scalar_low = 0;      // range of an integer scalar
  uint64_t scalar_high = 0;
  PyObject* explain = nullptr;  // (code, details) -> (exception type, message)
};

struct Capture;
struct Recipe;

struct Signature {
  PyObject_HEAD
  Operation* operation;
  PyObject* context;  // what autodiff knows of it; nullptr where results do not depend on operands differentiably
  PyObject* origin;   // what the layer above lowers it from
  std::vector<std::unique_ptr<Recipe>>* recipes;  // how its autodiff records are made: see tape.cpp
};

// What all views of one buffer that came from each other share: how a differentiable write through one reaches the rest.
struct Family {
  PyObject_HEAD
  PyObject* root;   // the autodiff record of the array that was first viewed
  PyObject* node;   // that of the whole buffer, since a differentiable write
  PyObject* token;  // changes with every such write
  char tracked;     // whether there was one
};

// A user's array: a view of a buffer. Not tracked by the garbage collector; number slots lead to `binary`.
struct Handle {
  PyObject_HEAD
  Layout* layout;
  Buffer* buffer;
  int64_t offset;
  PyObject* node;  // the autodiff record that made it
  Family* family;  // nullptr before the first view
  char requires_grad;
};

// A view of a block through the buffer protocol; the block lives as long as anybody holds this.
struct Export {
  PyObject_HEAD
  Block* block;
  char readonly;
};

// What the types and functions share. With the GIL.
struct Module {
  Executor* executor = nullptr;
  PyTypeObject* layout_type = nullptr;
  PyTypeObject* signature_type = nullptr;
  PyTypeObject* handle_type = nullptr;
  PyTypeObject* export_type = nullptr;
  PyTypeObject* family_type = nullptr;
  PyTypeObject* node_type = nullptr;
  PyObject* binary_slow = nullptr;         // (operator number, left, right, out or None)
  PyObject* make_error = nullptr;          // failure dict -> exception
  PyObject* start = nullptr;               // called once, before the first task
  PyObject* lower = nullptr;               // (signature, GPU): calls `set_bodies` for it
  PyObject* gradient_hook = nullptr;       // (context, inputs, result, scalars or callable, in place): an operation was recorded
  PyObject* view_hook = nullptr;           // (array, view, rule and its arguments): a tracked array was viewed
  PyObject* write_guard = nullptr;         // (array): a tracked array is about to be written
  std::vector<PyObject*> scalar_types;     // further types whose values are scalars of a dtype: owned, few
  std::vector<PyObject*> devices;          // Device objects by index
  Capture* capture = nullptr;              // see graphs.cpp; nullptr: nothing is captured
  bool forked = false;
};
extern Module module;
extern thread_local bool in_task;
extern thread_local bool gradients;      // whether this thread records how gradients flow
extern thread_local PyObject* autocast;  // the dtype that this thread's products compute in, or nullptr
extern thread_local PyObject* observer;  // in this thread called with each node and its results, or nullptr

// handles.cpp
Layout* make_layout(PyObject* dtype, int code, int64_t itemsize, const int64_t* dims, int ndim);
Handle* make_handle(Layout* layout, Buffer* buffer, int64_t offset);  // takes over one handle of the buffer
bool is_array(PyObject* object);
inline bool tracked(const Handle* handle) { return handle->requires_grad || (handle->family && handle->family->tracked); }
Family* family_of(Handle* handle);  // made where there is none; borrowed
Handle* as_handle(PyObject* object);  // nullptr with TypeError set
bool add_types(PyObject* m);
PyObject* export_handle(Handle* handle, bool readonly);
PyObject* element_of(Handle* handle);
PyObject* make_export(Block* block, bool readonly);
PyObject* set_bodies(PyObject*, PyObject* args);

// recording.cpp
bool ready_to_record(const char* what);
PyObject* record(Signature* signature, Handle* const* inputs, const uint64_t* scalars, Handle* const* outputs,
                 Device* device, PyObject* callable);
// What an operation runs on a device, and in `callable` the Python function that does, if one does; nullptr: an error.
const std::vector<std::unique_ptr<Body>>* bodies_on(const Device* device, Signature* signature, PyObject** callable);
PyObject* binary(int op, PyObject* left, PyObject* right, bool in_place);
void install_binary(int op, PyObject* left, PyObject* right, bool in_place, Signature* signature);
void retire(Operation* operation);
uint32_t current_site();
void lend_site(uint32_t site);  // what the calling thread's operations name where no line of the user is found
PyObject* describe_site(uint32_t site);  // (file, line, function)
void set_package_prefix(const char* prefix, const char* user_prefix);

// graphs.cpp: while a device is captured, what cannot be captured is refused, and what is recorded is kept.
bool captures_here();  // whether this thread's operations are captured
bool may_capture(const Operation* operation, Device* device, Handle* const* inputs, Handle* const* outputs, bool python);
bool may_capture_batch(const Device* device);
void keep_captured(const Operand* operands, const Body& body);  // a task of the capture. Under the record lock
bool refuse_in_capture(const char* what, const char* why);  // false, with the error set
PyObject* begin_capture(PyObject*, PyObject* args);
PyObject* end_capture(PyObject*, PyObject* args);
bool add_graph_type(PyObject* m);

// tape.cpp
int remember(Signature* signature, Handle* const* inputs, size_t n_in, const uint64_t* scalars, Handle* result,
             uint32_t site);  // 1: recorded for autodiff, 0: the hook in Python has to do it, -1: an error
void drop_recipes(Signature* signature);
uint64_t next_sequence();
bool add_tape(PyObject* m);

// batches.cpp
PyObject* push_batch(PyObject*, PyObject* args);

// waiting.cpp
int wait_handle(Handle* handle);  // -1 with the failure or KeyboardInterrupt raised
int wait_everything();
int finish_everything();  // the same, within a capture too
int wait_for_space();
bool run_serially(TaskName name, bool release_gil);
void raise_failure(const std::shared_ptr<Failure>& failure);
PyObject* describe_holdings(const std::vector<Holding>& holdings);
PyObject* failure_dict(const Failure& failure);
void dispose(void* object);
void drain_disposed();
int run_python_body(const Body* body, Arguments& arguments, char** data, Failure* failure);
void python_lane_main();

constexpr int kBinaryOperators = 24;
constexpr int kFirstComparison = 16;  // 16 + Py_LT .. 16 + Py_GE

}  // namespace dagrun
