#include "driver.h"

#include <dlfcn.h>

#include <initializer_list>

namespace dagrun::cuda {

namespace {

struct Symbol {
  const char* name;
  void** place;
};

std::string load(const char* path, std::initializer_list<Symbol> symbols) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return dlerror();
  for (const Symbol& symbol : symbols) {
    *symbol.place = dlsym(library, symbol.name);
    if (!*symbol.place) return std::string(path) + " has no " + symbol.name + ": it is too old";
  }
  return "";
}

template <typename Function>
void** place(Function& function) {
  return reinterpret_cast<void**>(&function);
}

}  // namespace

std::string load_driver(const char* path, Driver& d) {
  return load(path, {{"cuInit", place(d.init)},
                     {"cuDeviceGetCount", place(d.device_count)},
                     {"cuDeviceGet", place(d.device_get)},
                     {"cuDeviceGetName", place(d.device_name)},
                     {"cuDeviceGetAttribute", place(d.device_attribute)},
                     {"cuDeviceTotalMem_v2", place(d.device_memory)},
                     {"cuDeviceCanAccessPeer", place(d.can_access_peer)},
                     {"cuDevicePrimaryCtxRetain", place(d.retain_primary)},
                     {"cuCtxSetCurrent", place(d.set_current)},
                     {"cuCtxGetStreamPriorityRange", place(d.priority_range)},
                     {"cuCtxEnablePeerAccess", place(d.enable_peer)},
                     {"cuStreamCreateWithPriority", place(d.stream_create)},
                     {"cuStreamSynchronize", place(d.stream_synchronize)},
                     {"cuStreamWaitEvent", place(d.stream_wait_event)},
                     {"cuEventCreate", place(d.event_create)},
                     {"cuEventRecord", place(d.event_record)},
                     {"cuEventQuery", place(d.event_query)},
                     {"cuEventElapsedTime", place(d.event_elapsed)},
                     {"cuMemAlloc_v2", place(d.allocate)},
                     {"cuMemFree_v2", place(d.release)},
                     {"cuMemHostAlloc", place(d.host_allocate)},
                     {"cuMemFreeHost", place(d.host_release)},
                     {"cuMemcpyHtoDAsync_v2", place(d.copy_to_device)},
                     {"cuMemcpyDtoHAsync_v2", place(d.copy_to_host)},
                     {"cuMemcpyDtoDAsync_v2", place(d.copy_within)},
                     {"cuMemcpyPeerAsync", place(d.copy_peer)},
                     {"cuMemsetD8Async", place(d.fill)},
                     {"cuModuleLoadData", place(d.module_load)},
                     {"cuModuleGetFunction", place(d.module_function)},
                     {"cuFuncSetAttribute", place(d.function_attribute)},
                     {"cuLaunchKernel", place(d.launch)},
                     {"cuStreamBeginCapture_v2", place(d.begin_capture)},
                     {"cuStreamEndCapture", place(d.end_capture)},
                     {"cuGraphGetNodes", place(d.graph_nodes)},
                     {"cuGraphInstantiateWithFlags", place(d.graph_instantiate)},
                     {"cuGraphLaunch", place(d.graph_launch)},
                     {"cuGraphDestroy", place(d.graph_destroy)},
                     {"cuGraphExecDestroy", place(d.executable_destroy)},
                     {"cuGetErrorName", place(d.error_name)}});
}

std::string load_blas(const char* path, Blas& b) {
  return load(path, {{"cublasCreate_v2", place(b.create)},
                     {"cublasSetStream_v2", place(b.set_stream)},
                     {"cublasSetWorkspace_v2", place(b.set_workspace)},
                     {"cublasSetMathMode", place(b.set_math_mode)},
                     {"cublasGemmEx", place(b.gemm)},
                     {"cublasGemmStridedBatchedEx", place(b.gemm_batched)}});
}

std::string describe(const Driver& driver, Result result) {
  const char* name = nullptr;
  if (driver.error_name(result, &name) != kSuccess || !name) name = "an error without a name";
  return std::string(name) + " (" + std::to_string(result) + ")";
}

bool is_sticky(Result result) {
  if (result >= 900 && result <= 908) return false;  // what a capture does not permit
  switch (result) {
    case kBlasFailed:
    case 1:    // invalid value
    case 2:    // out of memory
    case 98:   // invalid kernel launch of one function
    case 209:  // no kernel image for this GPU
    case 400:  // invalid handle
    case 701:  // too many resources asked for
    case 800:  // not permitted
    case 801:  // not supported
      return false;
    default:
      return true;
  }
}

}  // namespace dagrun::cuda
