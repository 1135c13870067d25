// Layouts, signatures, handles and exports as Python types.
#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "cuda.h"
#include "objects.h"

#include <structmember.h>

namespace dagrun {

Module module;
thread_local bool in_task = false;
thread_local bool gradients = true;
thread_local PyObject* autocast = nullptr;

// ---------------------------------------------------------------------------------------------------- layouts

namespace {

std::unordered_multimap<uint64_t, Layout*> layouts;

uint64_t mix(uint64_t hash, uint64_t value) {
  hash ^= value + 0x9E3779B97F4A7C15ULL + (hash << 6) + (hash >> 2);
  return hash * 0xFF51AFD7ED558CCDULL;
}

PyObject* tuple_of(const int64_t* values, int count) {
  PyObject* tuple = PyTuple_New(count);
  if (!tuple) return nullptr;
  for (int i = 0; i < count; i++) PyTuple_SET_ITEM(tuple, i, PyLong_FromLongLong(values[i]));
  return tuple;
}

// The smallest region of the known forms that holds every byte of the view.
void find_region(Layout* layout) {
  const int ndim = layout->ndim;
  const int64_t* shape = layout->dims->data();
  const int64_t* strides = shape + ndim;
  layout->exact = true;
  layout->region = {};
  if (layout->size == 0) return;
  int64_t lo = 0, hi = layout->itemsize;
  std::vector<std::pair<int64_t, int64_t>> dims;  // |stride|, length
  bool repeats = false;                           // a broadcast axis: one byte stands for several elements
  for (int i = 0; i < ndim; i++) {
    const int64_t extent = (shape[i] - 1) * strides[i];
    (extent < 0 ? lo : hi) += extent;
    repeats |= shape[i] > 1 && strides[i] == 0;
    if (shape[i] > 1) dims.emplace_back(strides[i] < 0 ? -strides[i] : strides[i], shape[i]);
  }
  std::sort(dims.begin(), dims.end());
  int64_t width = layout->itemsize, stride = 0, count = 1;
  bool divides = true;
  for (auto [step, length] : dims) {
    if (!stride && step <= width) {
      if (step == width) width *= length;
      else if (step) width = step * (length - 1) + width;
    } else if (!stride) {
      stride = step;
      count = length;
    } else if (step % stride) {
      divides = false;
    } else if (step == stride * count) {
      count *= length;
    }
  }
  layout->region = {lo, hi, 0, 0};
  if (stride && divides && width < stride) layout->region = {lo, hi, stride, width};
  const Region& r = layout->region;
  const int64_t held = r.stride ? ((hi - lo - r.width) / r.stride + 1) * r.width : hi - lo;
  layout->exact = held == layout->nbytes && divides && !repeats;
}

void layout_dealloc(PyObject* self) {
  auto* layout = reinterpret_cast<Layout*>(self);
  auto range = layouts.equal_range(layout->hash);
  for (auto it = range.first; it != range.second; ++it) {
    if (it->second == layout) {
      layouts.erase(it);
      break;
    }
  }
  Py_XDECREF(layout->dtype);
  Py_XDECREF(layout->shape);
  Py_XDECREF(layout->strides);
  delete layout->dims;
  PyTypeObject* type = Py_TYPE(self);
  PyObject_Free(self);
  Py_DECREF(type);
}

#define LAYOUT(self) reinterpret_cast<Layout*>(self)
PyObject* layout_dtype(PyObject* self, void*) { return Py_NewRef(LAYOUT(self)->dtype); }
PyObject* layout_shape(PyObject* self, void*) { return Py_NewRef(LAYOUT(self)->shape); }
PyObject* layout_strides(PyObject* self, void*) { return Py_NewRef(LAYOUT(self)->strides); }
PyObject* layout_size(PyObject* self, void*) { return PyLong_FromLongLong(LAYOUT(self)->size); }
PyObject* layout_nbytes(PyObject* self, void*) { return PyLong_FromLongLong(LAYOUT(self)->nbytes); }
PyObject* layout_ndim(PyObject* self, void*) { return PyLong_FromLong(LAYOUT(self)->ndim); }
PyObject* layout_contiguous(PyObject* self, void*) { return PyBool_FromLong(LAYOUT(self)->contiguous); }
PyObject* layout_region(PyObject* self, void*) {
  const Region& r = LAYOUT(self)->region;
  return Py_BuildValue("LLLL", r.lo, r.hi, r.stride, r.width);
}

PyGetSetDef layout_getset[] = {{"dtype", layout_dtype, nullptr, nullptr, nullptr},
                               {"shape", layout_shape, nullptr, nullptr, nullptr},
                               {"strides", layout_strides, nullptr, nullptr, nullptr},
                               {"size", layout_size, nullptr, nullptr, nullptr},
                               {"nbytes", layout_nbytes, nullptr, nullptr, nullptr},
                               {"ndim", layout_ndim, nullptr, nullptr, nullptr},
                               {"contiguous", layout_contiguous, nullptr, nullptr, nullptr},
                               {"region", layout_region, nullptr, nullptr, nullptr},
                               {}};
PyType_Slot layout_slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(layout_dealloc)},
                              {Py_tp_getset, layout_getset},
                              {Py_tp_doc, const_cast<char*>("dtype, shape and strides of a view; interned")},
                              {0, nullptr}};
PyType_Spec layout_spec = {"dagrun._native.Layout", sizeof(Layout), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, layout_slots};

}  // namespace

Layout* make_layout(PyObject* dtype, int code, int64_t itemsize, const int64_t* dims, int ndim) {
  uint64_t hash = mix(static_cast<uint64_t>(code), static_cast<uint64_t>(ndim));
  for (int i = 0; i < 2 * ndim; i++) hash = mix(hash, static_cast<uint64_t>(dims[i]));
  auto range = layouts.equal_range(hash);
  for (auto it = range.first; it != range.second; ++it) {
    Layout* known = it->second;
    if (known->code == code && known->ndim == ndim && !memcmp(known->dims->data(), dims, 2 * ndim * sizeof(int64_t)))
      return reinterpret_cast<Layout*>(Py_NewRef(reinterpret_cast<PyObject*>(known)));
  }
  auto* layout = PyObject_New(Layout, module.layout_type);
  if (!layout) return nullptr;
  layout->dims = new std::vector<int64_t>(dims, dims + 2 * ndim);
  layout->dtype = Py_NewRef(dtype);
  layout->shape = tuple_of(dims, ndim);
  layout->strides = tuple_of(dims + ndim, ndim);
  layout->code = code;
  layout->ndim = ndim;
  layout->itemsize = itemsize;
  layout->size = 1;
  for (int i = 0; i < ndim; i++) layout->size *= dims[i];
  layout->nbytes = layout->size * itemsize;
  layout->contiguous = true;
  int64_t expected = itemsize;
  for (int i = ndim - 1; i >= 0 && layout->size; i--) {
    if (dims[i] != 1 && dims[ndim + i] != expected) layout->contiguous = false;
    expected *= dims[i];
  }
  layout->hash = hash;
  find_region(layout);
  layouts.emplace(hash, layout);
  return layout;
}

// ---------------------------------------------------------------------------------------------------- handles

namespace {

std::vector<void*> free_handles;  // memory of dead handles, ready for the next
constexpr size_t kFreeHandles = 512;

void handle_dealloc(PyObject* self) {
  auto* handle = reinterpret_cast<Handle*>(self);
  if (handle->buffer && !module.forked) module.executor->drop_handle(handle->buffer);
  Py_XDECREF(reinterpret_cast<PyObject*>(handle->layout));
  Py_XDECREF(handle->node);
  Py_XDECREF(reinterpret_cast<PyObject*>(handle->family));
  PyTypeObject* type = Py_TYPE(self);
  if (free_handles.size() < kFreeHandles) free_handles.push_back(self);
  else PyObject_Free(self);
  Py_DECREF(type);
}

#define HANDLE(self) reinterpret_cast<Handle*>(self)
PyObject* handle_layout(PyObject* self, void*) { return Py_NewRef(reinterpret_cast<PyObject*>(HANDLE(self)->layout)); }
PyObject* handle_dtype(PyObject* self, void*) { return Py_NewRef(HANDLE(self)->layout->dtype); }
PyObject* handle_shape(PyObject* self, void*) { return Py_NewRef(HANDLE(self)->layout->shape); }
PyObject* handle_strides(PyObject* self, void*) { return Py_NewRef(HANDLE(self)->layout->strides); }
PyObject* handle_ndim(PyObject* self, void*) { return PyLong_FromLong(HANDLE(self)->layout->ndim); }
PyObject* handle_size(PyObject* self, void*) { return PyLong_FromLongLong(HANDLE(self)->layout->size); }
PyObject* handle_nbytes(PyObject* self, void*) { return PyLong_FromLongLong(HANDLE(self)->layout->nbytes); }
PyObject* handle_itemsize(PyObject* self, void*) { return PyLong_FromLongLong(HANDLE(self)->layout->itemsize); }
PyObject* handle_offset(PyObject* self, void*) { return PyLong_FromLongLong(HANDLE(self)->offset); }
PyObject* handle_buffer(PyObject* self, void*) { return PyLong_FromUnsignedLongLong(HANDLE(self)->buffer->id); }
PyObject* handle_extent(PyObject* self, void*) { return PyLong_FromLongLong(HANDLE(self)->buffer->nbytes); }
PyObject* handle_version(PyObject* self, void*) { return PyLong_FromUnsignedLongLong(HANDLE(self)->buffer->version); }
PyObject* handle_device(PyObject* self, void*) { return Py_NewRef(module.devices[HANDLE(self)->buffer->device->index]); }
PyObject* handle_node(PyObject* self, void*) {
  PyObject* node = HANDLE(self)->node;
  return Py_NewRef(node ? node : Py_None);
}
int handle_set_node(PyObject* self, PyObject* value, void*) {
  Py_XSETREF(HANDLE(self)->node, value && value != Py_None ? Py_NewRef(value) : nullptr);
  return 0;
}
PyObject* handle_family(PyObject* self, void*) {
  auto* family = reinterpret_cast<PyObject*>(HANDLE(self)->family);
  return Py_NewRef(family ? family : Py_None);
}
PyObject* handle_tracked(PyObject* self, void*) { return PyBool_FromLong(tracked(HANDLE(self))); }
PyObject* handle_requires_grad(PyObject* self, void*) { return PyBool_FromLong(HANDLE(self)->requires_grad); }
int handle_set_requires_grad(PyObject* self, PyObject* value, void*) {
  const int truth = value ? PyObject_IsTrue(value) : 0;
  if (truth < 0) return -1;
  HANDLE(self)->requires_grad = static_cast<char>(truth);
  return 0;
}

PyGetSetDef handle_getset[] = {
    {"_layout", handle_layout, nullptr, nullptr, nullptr},
    {"dtype", handle_dtype, nullptr, "The element type, a numpy.dtype.", nullptr},
    {"shape", handle_shape, nullptr, "The length of each axis.", nullptr},
    {"strides", handle_strides, nullptr, "The step in bytes along each axis.", nullptr},
    {"ndim", handle_ndim, nullptr, "The number of axes.", nullptr},
    {"size", handle_size, nullptr, "The number of elements.", nullptr},
    {"nbytes", handle_nbytes, nullptr, "The bytes that the elements take.", nullptr},
    {"itemsize", handle_itemsize, nullptr, "The bytes of one element.", nullptr},
    {"device", handle_device, nullptr, "The device that holds the array.", nullptr},
    {"_offset", handle_offset, nullptr, nullptr, nullptr},
    {"_buffer", handle_buffer, nullptr, nullptr, nullptr},
    {"_version", handle_version, nullptr, nullptr, nullptr},
    {"_extent", handle_extent, nullptr, "The bytes of the whole buffer.", nullptr},
    {"_node", handle_node, handle_set_node, nullptr, nullptr},
    {"_requires_grad", handle_requires_grad, handle_set_requires_grad, nullptr, nullptr},
    {"_family", handle_family, nullptr, nullptr, nullptr},
    {"_tracked", handle_tracked, nullptr, nullptr, nullptr},
    {}};

template <int op>
PyObject* slot(PyObject* left, PyObject* right) {
  return binary(op, left, right, false);
}
template <int op>
PyObject* slot_in_place(PyObject* left, PyObject* right) {
  return binary(op, left, right, true);
}
PyObject* slot_power(PyObject* left, PyObject* right, PyObject* modulus) {
  if (modulus != Py_None) Py_RETURN_NOTIMPLEMENTED;
  return binary(6, left, right, false);
}
PyObject* slot_power_in_place(PyObject* left, PyObject* right, PyObject*) { return binary(6, left, right, true); }
// By identity: == gives an array, and arrays are keys of optimizer state and of caches.
Py_hash_t hash_identity(PyObject* self) { return static_cast<Py_hash_t>(reinterpret_cast<size_t>(self) >> 4); }
PyObject* compare(PyObject* left, PyObject* right, int op) { return binary(kFirstComparison + op, left, right, false); }

#define SLOT(name, function) {name, reinterpret_cast<void*>(function)}
PyType_Slot handle_slots[] = {SLOT(Py_tp_dealloc, handle_dealloc),
                              SLOT(Py_tp_getset, handle_getset),
                              SLOT(Py_tp_richcompare, compare),
                              SLOT(Py_tp_hash, hash_identity),
                              SLOT(Py_nb_add, slot<0>),
                              SLOT(Py_nb_subtract, slot<1>),
                              SLOT(Py_nb_multiply, slot<2>),
                              SLOT(Py_nb_true_divide, slot<3>),
                              SLOT(Py_nb_floor_divide, slot<4>),
                              SLOT(Py_nb_remainder, slot<5>),
                              SLOT(Py_nb_power, slot_power),
                              SLOT(Py_nb_matrix_multiply, slot<7>),
                              SLOT(Py_nb_and, slot<8>),
                              SLOT(Py_nb_or, slot<9>),
                              SLOT(Py_nb_xor, slot<10>),
                              SLOT(Py_nb_lshift, slot<11>),
                              SLOT(Py_nb_rshift, slot<12>),
                              SLOT(Py_nb_inplace_add, slot_in_place<0>),
                              SLOT(Py_nb_inplace_subtract, slot_in_place<1>),
                              SLOT(Py_nb_inplace_multiply, slot_in_place<2>),
                              SLOT(Py_nb_inplace_true_divide, slot_in_place<3>),
                              SLOT(Py_nb_inplace_floor_divide, slot_in_place<4>),
                              SLOT(Py_nb_inplace_remainder, slot_in_place<5>),
                              SLOT(Py_nb_inplace_power, slot_power_in_place),
                              SLOT(Py_nb_inplace_matrix_multiply, slot_in_place<7>),
                              SLOT(Py_nb_inplace_and, slot_in_place<8>),
                              SLOT(Py_nb_inplace_or, slot_in_place<9>),
                              SLOT(Py_nb_inplace_xor, slot_in_place<10>),
                              SLOT(Py_nb_inplace_lshift, slot_in_place<11>),
                              SLOT(Py_nb_inplace_rshift, slot_in_place<12>),
                              {0, nullptr}};
// Neither a base type nor collected: classes made in Python are tracked by the collector, and handles must not be.
// The layers above add methods to this type itself.
PyType_Spec handle_spec = {"dagrun.Array", sizeof(Handle), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                           handle_slots};

}  // namespace

Handle* make_handle(Layout* layout, Buffer* buffer, int64_t offset) {
  Handle* handle;
  if (!free_handles.empty()) {
    handle = static_cast<Handle*>(free_handles.back());
    free_handles.pop_back();
  } else {
    handle = static_cast<Handle*>(PyObject_Malloc(sizeof(Handle)));
    if (!handle) return reinterpret_cast<Handle*>(PyErr_NoMemory());
  }
  PyObject_Init(reinterpret_cast<PyObject*>(handle), module.handle_type);
  handle->layout = layout;
  Py_INCREF(reinterpret_cast<PyObject*>(layout));
  handle->buffer = buffer;
  handle->offset = offset;
  handle->node = nullptr;
  handle->family = nullptr;
  handle->requires_grad = 0;
  return handle;
}

bool is_array(PyObject* object) {
  return Py_TYPE(object) == module.handle_type;
}

Handle* as_handle(PyObject* object) {
  if (is_array(object)) return reinterpret_cast<Handle*>(object);
  PyErr_Format(PyExc_TypeError, "expected a dagrun array, got %s", Py_TYPE(object)->tp_name);
  return nullptr;
}

// ---------------------------------------------------------------------------------------------------- families

namespace {

void family_dealloc(PyObject* self) {
  auto* family = reinterpret_cast<Family*>(self);
  Py_XDECREF(family->root);
  Py_XDECREF(family->node);
  Py_XDECREF(family->token);
  PyTypeObject* type = Py_TYPE(self);
  PyObject_Free(self);
  Py_DECREF(type);
}

PyMemberDef family_members[] = {{"root", T_OBJECT, offsetof(Family, root), 0, nullptr},
                                {"node", T_OBJECT, offsetof(Family, node), 0, nullptr},
                                {"token", T_OBJECT, offsetof(Family, token), 0, nullptr},
                                {"tracked", T_BOOL, offsetof(Family, tracked), 0, nullptr},
                                {}};
PyType_Slot family_slots[] = {SLOT(Py_tp_dealloc, family_dealloc),
                              SLOT(Py_tp_members, family_members),
                              {Py_tp_doc, const_cast<char*>("what the views of one buffer share for autodiff")},
                              {0, nullptr}};
PyType_Spec family_spec = {"dagrun._native.Family", sizeof(Family), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, family_slots};

}  // namespace

Family* family_of(Handle* handle) {
  if (!handle->family) {
    Family* family = PyObject_New(Family, module.family_type);
    if (!family) return nullptr;
    family->root = Py_XNewRef(handle->node);
    family->node = family->token = nullptr;
    family->tracked = 0;
    handle->family = family;
  }
  return handle->family;
}

// ---------------------------------------------------------------------------------------------------- exports

namespace {

int export_getbuffer(PyObject* self, Py_buffer* view, int flags) {
  auto* exported = reinterpret_cast<Export*>(self);
  if (exported->block->device && exported->block->device->memory.source) {
    PyErr_Format(PyExc_BufferError, "memory of %s cannot be read by the CPU", exported->block->device->name.c_str());
    return -1;
  }
  return PyBuffer_FillInfo(view, self, exported->block->memory, exported->block->nbytes, exported->readonly, flags);
}

void export_dealloc(PyObject* self) {
  if (!module.forked) module.executor->drop_block(reinterpret_cast<Export*>(self)->block);
  PyTypeObject* type = Py_TYPE(self);
  PyObject_Free(self);
  Py_DECREF(type);
}

PyObject* export_address(PyObject* self, void*) {
  return PyLong_FromVoidPtr(reinterpret_cast<Export*>(self)->block->memory);
}
PyObject* export_nbytes(PyObject* self, void*) { return PyLong_FromLongLong(reinterpret_cast<Export*>(self)->block->nbytes); }
PyObject* export_gpu(PyObject* self, void*) {
  const Device* device = reinterpret_cast<Export*>(self)->block->device;
  return PyLong_FromLong(device ? device->target - 1 : -1);
}
PyGetSetDef export_getset[] = {{"address", export_address, nullptr, nullptr, nullptr},
                               {"nbytes", export_nbytes, nullptr, nullptr, nullptr},
                               {"gpu", export_gpu, nullptr, "which GPU's memory it is; -1: the CPU's", nullptr},
                               {}};
PyType_Slot export_slots[] = {SLOT(Py_tp_dealloc, export_dealloc),
                              SLOT(Py_tp_getset, export_getset),
                              SLOT(Py_bf_getbuffer, export_getbuffer),
                              {Py_tp_doc, const_cast<char*>("the memory of an array, kept alive while this is")},
                              {0, nullptr}};
PyType_Spec export_spec = {"dagrun._native.Export", sizeof(Export), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, export_slots};

}  // namespace

PyObject* make_export(Block* block, bool readonly) {
  auto* exported = PyObject_New(Export, module.export_type);
  if (!exported) return nullptr;
  exported->block = block;
  exported->readonly = readonly;
  return reinterpret_cast<PyObject*>(exported);
}

// Waits for the array, then gives the bytes of its only element. No export: a later write stays where it is.
PyObject* element_of(Handle* handle) {
  const Layout* layout = handle->layout;
  if (layout->size != 1) return PyErr_Format(PyExc_ValueError, "element: %lld elements, expected one", (long long)layout->size);
  if (handle->buffer->device->memory.source) return PyErr_Format(PyExc_BufferError, "the CPU cannot read memory of a GPU");
  const Region region = region_in(handle->buffer, shifted(layout->region, handle->offset));
  Executor& executor = *module.executor;
  char bytes[8];
  for (;;) {
    if (wait_handle(handle) < 0) return nullptr;
    std::unique_lock<SpinLock> guard(executor.record_lock(), std::defer_lock);
    if (!module.forked) {
      guard.lock();
      if (executor.pending_writer(handle->buffer, region).slot) continue;  // another thread wrote meanwhile
      if (!executor.ensure_memory(handle->buffer)) return PyErr_NoMemory();
    }
    memcpy(bytes, handle->buffer->data.load() + handle->offset, layout->itemsize);
    break;
  }
  return PyBytes_FromStringAndSize(bytes, layout->itemsize);
}

// Waits for the array, then gives its buffer's memory; a later write goes to fresh memory while the export lives.
PyObject* export_handle(Handle* handle, bool readonly) {
  const Region region = region_in(handle->buffer, shifted(handle->layout->region, handle->offset));
  Executor& executor = *module.executor;
  if (captures_here() && handle->buffer->device->memory.source) {
    refuse_in_capture("the export of an array", "other libraries would see, or bring, the values of the first run only");
    return nullptr;
  }
  for (;;) {
    if (wait_handle(handle) < 0) return nullptr;
    Block* block = nullptr;
    if (module.forked) {
      block = new Block();  // a child of fork only reads what was finished
      block->references = 2;
      block->memory = handle->buffer->data.load();
      block->nbytes = handle->buffer->nbytes;
    } else {
      std::lock_guard<SpinLock> guard(executor.record_lock());
      if (executor.pending_writer(handle->buffer, region).slot) continue;  // another thread wrote meanwhile
      block = executor.export_block(handle->buffer);
    }
    if (!block) {
      return PyErr_Format(PyExc_MemoryError, "no memory for an array of %lld bytes", (long long)handle->buffer->nbytes);
    }
    return make_export(block, readonly);
  }
}

// ---------------------------------------------------------------------------------------------------- signatures

namespace {

void signature_dealloc(PyObject* self) {
  drop_recipes(reinterpret_cast<Signature*>(self));
  retire(reinterpret_cast<Signature*>(self)->operation);
  Py_XDECREF(reinterpret_cast<Signature*>(self)->context);
  Py_XDECREF(reinterpret_cast<Signature*>(self)->origin);
  PyTypeObject* type = Py_TYPE(self);
  PyObject_Free(self);
  Py_DECREF(type);
}

bool read_layouts(PyObject* tuple, std::vector<Layout*>& out) {
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++) {
    PyObject* item = PyTuple_GET_ITEM(tuple, i);
    if (!PyObject_TypeCheck(item, module.layout_type)) {
      PyErr_Format(PyExc_TypeError, "expected a Layout, got %s", Py_TYPE(item)->tp_name);
      return false;
    }
    out.push_back(reinterpret_cast<Layout*>(Py_NewRef(item)));
  }
  return true;
}

// bodies: tuple of (function, params: bytes, cost, operands), operands: tuple of (index, offset, mode, Layout or None).
// function: an address, or of a GPU (kind of kernel, CUfunction, blocks, threads, shared bytes, dtype, compute type).
bool read_bodies(Operation* operation, PyObject* bodies, int lane, int priority, std::vector<std::unique_ptr<Body>>& out) {
  Executor& executor = *module.executor;
  const size_t operand_count = operation->outputs.size() + operation->inputs.size();
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(bodies); i++) {
    long long cost;
    PyObject *function, *params, *operands;
    if (!PyArg_ParseTuple(PyTuple_GET_ITEM(bodies, i), "OSLO!", &function, &params, &cost, &PyTuple_Type, &operands))
      return false;
    auto body = std::make_unique<Body>();
    if (PyTuple_Check(function)) {
      Kernel kernel;
      int kind;
      unsigned long long address;
      if (!PyArg_ParseTuple(function, "iKIIIii", &kind, &address, &kernel.blocks, &kernel.threads, &kernel.shared_bytes,
                            &kernel.dtype, &kernel.compute))
        return false;
      kernel.kind = static_cast<Kernel::Kind>(kind);
      kernel.function = reinterpret_cast<void*>(address);
      body->kernel = std::make_shared<const Kernel>(kernel);
    } else {
      const unsigned long long address = PyLong_AsUnsignedLongLong(function);
      if (address == static_cast<unsigned long long>(-1) && PyErr_Occurred()) return false;
      body->function = reinterpret_cast<Function>(address);
    }
    body->params.resize(static_cast<size_t>(PyBytes_GET_SIZE(params)) / 8);
    memcpy(body->params.data(), PyBytes_AS_STRING(params), body->params.size() * 8);
    body->cost = cost;
    body->name = executor.intern(operation->name);
    body->shapes = executor.intern(operation->shapes);
    body->lane = static_cast<Lane>(lane);
    body->priority = priority;
    body->owner = operation;
    body->piece = static_cast<uint32_t>(i);
    body->pieces = static_cast<uint32_t>(PyTuple_GET_SIZE(bodies));
    for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(operands); k++) {
      OperandSpec spec;
      int index, mode;
      long long offset;
      PyObject* layout;
      if (!PyArg_ParseTuple(PyTuple_GET_ITEM(operands, k), "iLiO", &index, &offset, &mode, &layout)) return false;
      if (index < 0 || static_cast<size_t>(index) >= operand_count) {
        PyErr_Format(PyExc_IndexError, "operand %d of %zu", index, operand_count);
        return false;
      }
      const size_t n_outputs = operation->outputs.size();
      Layout* view = layout != Py_None ? reinterpret_cast<Layout*>(layout)
                     : static_cast<size_t>(index) < n_outputs ? operation->outputs[index]
                                                              : operation->inputs[index - n_outputs];
      spec.index = static_cast<uint16_t>(index);
      spec.offset = offset;
      spec.mode = static_cast<uint8_t>(mode);
      if (!view->exact) spec.mode &= static_cast<uint8_t>(~kOverwrite);
      spec.region = shifted(view->region, offset);
      if ((mode & kDonates) && !body->kernel) body->donates = true;
      body->operands.push_back(spec);
    }
    out.push_back(std::move(body));
  }
  return true;
}

// Signature(name, shapes, outputs, inputs, bodies, lane, priority, scalar_count, scalar_kind, low, high, explain)
PyObject* signature_new(PyTypeObject* type, PyObject* args, PyObject*) {
  const char *name, *shapes, *scalar_kind;
  PyObject *outputs, *inputs, *bodies, *explain;
  int lane, priority, scalar_count;
  long long low;
  unsigned long long high;
  if (!PyArg_ParseTuple(args, "ssO!O!O!iiisLKO", &name, &shapes, &PyTuple_Type, &outputs, &PyTuple_Type, &inputs,
                        &PyTuple_Type, &bodies, &lane, &priority, &scalar_count, &scalar_kind, &low, &high, &explain))
    return nullptr;
  auto operation = std::make_unique<Operation>();
  operation->name = name;
  operation->shapes = shapes;
  operation->scalar_count = scalar_count;
  operation->scalar_kind = scalar_kind[0];
  operation->scalar_low = low;
  operation->scalar_high = high;
  if (!read_layouts(outputs, operation->outputs) || !read_layouts(inputs, operation->inputs)) return nullptr;
  if (!read_bodies(operation.get(), bodies, lane, priority, operation->bodies)) return nullptr;
  if (explain != Py_None) operation->explain = Py_NewRef(explain);
  auto* self = reinterpret_cast<Signature*>(type->tp_alloc(type, 0));
  if (self) {
    self->operation = operation.release();
    self->context = self->origin = nullptr;
    self->recipes = nullptr;
  }
  return reinterpret_cast<PyObject*>(self);
}

PyObject* signature_name(PyObject* self, void*) {
  return PyUnicode_FromString(reinterpret_cast<Signature*>(self)->operation->name.c_str());
}
PyObject* signature_outputs(PyObject* self, void*) {
  const auto& outputs = reinterpret_cast<Signature*>(self)->operation->outputs;
  PyObject* tuple = PyTuple_New(static_cast<Py_ssize_t>(outputs.size()));
  for (size_t i = 0; tuple && i < outputs.size(); i++)
    PyTuple_SET_ITEM(tuple, static_cast<Py_ssize_t>(i), Py_NewRef(reinterpret_cast<PyObject*>(outputs[i])));
  return tuple;
}
PyMemberDef signature_members[] = {{"context", T_OBJECT, offsetof(Signature, context), 0, nullptr},
                                   {"origin", T_OBJECT, offsetof(Signature, origin), 0, nullptr},
                                   {}};
PyGetSetDef signature_getset[] = {{"name", signature_name, nullptr, nullptr, nullptr},
                                  {"outputs", signature_outputs, nullptr, nullptr, nullptr},
                                  {}};
PyType_Slot signature_slots[] = {SLOT(Py_tp_new, signature_new),
                                 SLOT(Py_tp_dealloc, signature_dealloc),
                                 SLOT(Py_tp_getset, signature_getset),
                                 SLOT(Py_tp_members, signature_members),
                                 {Py_tp_doc, const_cast<char*>("an operation on given layouts, ready to be recorded")},
                                 {0, nullptr}};
PyType_Spec signature_spec = {"dagrun._native.Signature", sizeof(Signature), 0, Py_TPFLAGS_DEFAULT, signature_slots};

PyTypeObject* add_type(PyObject* m, PyType_Spec* spec) {
  auto* type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(spec));
  if (type && PyModule_AddType(m, type) < 0) return nullptr;
  return type;
}

}  // namespace

// set_bodies(signature, target, bodies, lane, priority, fallback): what runs on one GPU; see Lowered.
PyObject* set_bodies(PyObject*, PyObject* args) {
  PyObject *object, *bodies, *fallback;
  int target, lane, priority;
  if (!PyArg_ParseTuple(args, "O!iO!iiO", module.signature_type, &object, &target, &PyTuple_Type, &bodies, &lane, &priority,
                        &fallback))
    return nullptr;
  if (target < 1 || target > 255) return PyErr_Format(PyExc_ValueError, "target %d, expected 1 to 255", target);
  Operation* operation = reinterpret_cast<Signature*>(object)->operation;
  auto lowered = std::make_unique<Lowered>();
  if (!read_bodies(operation, bodies, lane, priority, lowered->bodies)) return nullptr;
  for (auto& body : lowered->bodies) {
    if (!body->kernel || body->kernel->kind != Kernel::kLaunch) continue;
    if (body->operands.size() > KernelCall::kMostOperands || body->params.size() > KernelCall::kMostParams ||
        operation->scalar_count > KernelCall::kMostScalars)
      return PyErr_Format(PyExc_ValueError, "%s: %zu operands, %zu parameters, %d scalars do not fit a kernel's argument",
                          operation->name.c_str(), body->operands.size(), body->params.size(), operation->scalar_count);
  }
  if (fallback != Py_None) {
    lowered->fallback = Py_NewRef(fallback);
    for (auto& body : lowered->bodies) body->hands_scalars = true;
  }
  if (operation->lowered.size() <= static_cast<size_t>(target)) operation->lowered.resize(target + 1u);
  if (!operation->lowered[target]) operation->lowered[target] = std::move(lowered);  // tasks may name the first one
  else Py_XDECREF(lowered->fallback);
  Py_RETURN_NONE;
}

bool add_types(PyObject* m) {
  module.layout_type = add_type(m, &layout_spec);
  module.handle_type = add_type(m, &handle_spec);
  module.export_type = add_type(m, &export_spec);
  module.family_type = add_type(m, &family_spec);
  module.signature_type = add_type(m, &signature_spec);
  return module.layout_type && module.handle_type && module.export_type && module.family_type && module.signature_type;
}

}  // namespace dagrun
