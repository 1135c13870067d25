# cython: language_level=3, boundscheck=False, wraparound=False, c_api_binop_methods=True
# The recorder in Cython: a final extension type without object members (so without GC), and Cython's own free list.
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

cimport cython


cdef extern from "ring.h" namespace "ring" nogil:
    uint64_t append(uint32_t output, uint32_t left, uint32_t right, uint16_t name)
    uint64_t recorded
    uint32_t last_buffer
    int64_t live_handles
    uint16_t operation_add "ring::add"
    uint16_t operation_push "ring::push"


@cython.final
@cython.freelist(256)
cdef class Handle:
    cdef uint32_t buffer
    cdef int64_t offset

    def __cinit__(self):
        global last_buffer, live_handles
        last_buffer += 1
        live_handles += 1
        self.buffer = last_buffer
        self.offset = 0

    def __dealloc__(self):
        global live_handles
        live_handles -= 1

    def __add__(left, right):
        if type(left) is not Handle or type(right) is not Handle:
            return NotImplemented
        cdef Handle output = Handle.__new__(Handle)
        append(output.buffer, (<Handle>left).buffer, (<Handle>right).buffer, operation_add)
        return output


cdef int buffers_of(tuple handles, uint32_t *buffers) except -1:
    """Read the buffers of a tuple of one or two handles."""
    cdef Py_ssize_t i
    if len(handles) < 1 or len(handles) > 2:
        raise TypeError("expected a tuple of one or two handles")
    for i in range(len(handles)):
        buffers[i] = (<Handle?>handles[i]).buffer
    return 0


def push(tuple reads not None, tuple writes not None):
    cdef uint32_t[2] read
    cdef uint32_t[2] written
    read[1] = 0
    buffers_of(reads, read)
    buffers_of(writes, written)
    return append(written[0], read[0], read[1], operation_push)


def counts():
    return recorded, live_handles
