// The recorder on nanobind, as its documentation writes a class with an operator.
#include <nanobind/nanobind.h>

#include "ring.h"

namespace nb = nanobind;

namespace {

struct Handle {
    uint32_t buffer = ++ring::last_buffer;
    int64_t offset = 0;
    Handle() { ++ring::live_handles; }
    Handle(const Handle &) = delete;
    Handle(Handle &&other) : buffer(other.buffer), offset(other.offset) { ++ring::live_handles; }
    ~Handle() { --ring::live_handles; }
};

// Reads the buffers of a tuple of one or two handles.
void buffers_of(const nb::tuple &handles, uint32_t (&buffers)[2]) {
    if (handles.size() < 1 || handles.size() > 2) throw nb::type_error("expected a tuple of one or two handles");
    for (size_t i = 0; i < handles.size(); ++i) buffers[i] = nb::cast<const Handle &>(handles[i]).buffer;
}

}  // namespace

NB_MODULE(recorder_nanobind, module) {
    nb::class_<Handle>(module, "Handle")
        .def(nb::init<>())
        .def(
            "__add__",
            [](const Handle &left, const Handle &right) {
                Handle output;
                ring::append(output.buffer, left.buffer, right.buffer, ring::add);
                return output;
            },
            nb::is_operator());
    module.def("push", [](const nb::tuple &reads, const nb::tuple &writes) {
        uint32_t read[2] = {}, written[2] = {};
        buffers_of(reads, read);
        buffers_of(writes, written);
        return ring::append(written[0], read[0], read[1], ring::push);
    });
    module.def("counts", [] { return nb::make_tuple(ring::recorded, ring::live_handles); });
}
