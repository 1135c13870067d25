// The recorder on the raw C API: a heap type without GC, its number slot, a free list and METH_FASTCALL.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "ring.h"

namespace {

struct Handle {
    PyObject_HEAD
    uint32_t buffer;
    int64_t offset;
};

PyTypeObject *handle_type = nullptr;

// Freed handles, linked through `offset`; the GIL guards both.
constexpr int free_capacity = 256;
Handle *free_list = nullptr;
int free_count = 0;

Handle *new_handle(int64_t offset) {
    Handle *handle;
    if (free_list != nullptr) {
        handle = free_list;
        free_list = reinterpret_cast<Handle *>(handle->offset);
        --free_count;
        PyObject_Init(reinterpret_cast<PyObject *>(handle), handle_type);
    } else {
        handle = PyObject_New(Handle, handle_type);
        if (handle == nullptr) return nullptr;
    }
    handle->buffer = ++ring::last_buffer;
    handle->offset = offset;
    ++ring::live_handles;
    return handle;
}

void handle_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    Handle *handle = reinterpret_cast<Handle *>(self);
    --ring::live_handles;
    if (free_count < free_capacity) {
        handle->offset = reinterpret_cast<int64_t>(free_list);
        free_list = handle;
        ++free_count;
    } else {
        PyObject_Free(self);
    }
    Py_DECREF(type);  // each object of a heap type holds its type
}

PyObject *handle_new(PyTypeObject *, PyObject *, PyObject *) { return reinterpret_cast<PyObject *>(new_handle(0)); }

PyObject *handle_add(PyObject *left, PyObject *right) {
    if (Py_TYPE(left) != handle_type || Py_TYPE(right) != handle_type) Py_RETURN_NOTIMPLEMENTED;
    Handle *output = new_handle(0);
    if (output == nullptr) return nullptr;
    ring::append(output->buffer, reinterpret_cast<Handle *>(left)->buffer, reinterpret_cast<Handle *>(right)->buffer,
                 ring::add);
    return reinterpret_cast<PyObject *>(output);
}

// Reads the buffers of a tuple of one or two handles; false with an exception set.
bool buffers_of(PyObject *handles, uint32_t (&buffers)[2]) {
    if (!PyTuple_CheckExact(handles) || PyTuple_GET_SIZE(handles) < 1 || PyTuple_GET_SIZE(handles) > 2) {
        PyErr_SetString(PyExc_TypeError, "expected a tuple of one or two handles");
        return false;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(handles); ++i) {
        PyObject *item = PyTuple_GET_ITEM(handles, i);
        if (Py_TYPE(item) != handle_type) {
            PyErr_SetString(PyExc_TypeError, "expected a Handle");
            return false;
        }
        buffers[i] = reinterpret_cast<Handle *>(item)->buffer;
    }
    return true;
}

PyObject *push(PyObject *, PyObject *const *arguments, Py_ssize_t count) {
    if (count != 2) return PyErr_Format(PyExc_TypeError, "push takes reads and writes, not %zd arguments", count);
    uint32_t reads[2] = {}, writes[2] = {};
    if (!buffers_of(arguments[0], reads) || !buffers_of(arguments[1], writes)) return nullptr;
    return PyLong_FromUnsignedLongLong(ring::append(writes[0], reads[0], reads[1], ring::push));
}

PyObject *counts(PyObject *, PyObject *) {
    return Py_BuildValue("KL", static_cast<unsigned long long>(ring::recorded),
                         static_cast<long long>(ring::live_handles));
}

PyType_Slot handle_slots[] = {{Py_tp_new, reinterpret_cast<void *>(handle_new)},
                              {Py_tp_dealloc, reinterpret_cast<void *>(handle_dealloc)},
                              {Py_nb_add, reinterpret_cast<void *>(handle_add)},
                              {0, nullptr}};
PyType_Spec handle_spec = {"recorder_raw.Handle", sizeof(Handle), 0, Py_TPFLAGS_DEFAULT, handle_slots};

PyMethodDef methods[] = {
    {"push", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(push)), METH_FASTCALL, nullptr},
    {"counts", counts, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr}};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "recorder_raw", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit_recorder_raw() {
    PyObject *self = PyModule_Create(&module);
    if (self == nullptr) return nullptr;
    handle_type = reinterpret_cast<PyTypeObject *>(PyType_FromSpec(&handle_spec));
    if (handle_type == nullptr || PyModule_AddType(self, handle_type) < 0) {
        Py_DECREF(self);
        return nullptr;
    }
    return self;
}
