// The few functions of the CUDA driver and of cuBLAS that the engine calls, found by name in libraries that the machine
// may not have: so nothing of CUDA is needed to build. Types and numbers are those of the driver API's documentation.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace dagrun::cuda {

using Result = int;  // CUresult
using DevicePointer = unsigned long long;
using Handle = void*;  // CUcontext, CUstream, CUevent, CUmodule, CUfunction: opaque pointers

constexpr Result kSuccess = 0;
constexpr Result kOutOfMemory = 2;
constexpr Result kNotReady = 600;
constexpr Result kBlasFailed = -1;  // of our own: cuBLAS counts differently
constexpr int kFloat32 = 0, kFloat64 = 1, kFloat16 = 2, kBfloat16 = 14;  // cudaDataType
constexpr unsigned kStreamNonBlocking = 1;
constexpr unsigned kEventDefault = 0, kEventDisableTiming = 2;
constexpr unsigned kHostAllocPortable = 1;
constexpr int kSumsInComputeType = 16;  // CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION, with CUBLAS_DEFAULT_MATH
constexpr int kCaptureRelaxed = 2;  // CU_STREAM_CAPTURE_MODE_RELAXED
constexpr int kMaxDynamicSharedBytes = 8;  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
constexpr int kComputeCapabilityMajor = 75, kComputeCapabilityMinor = 76;  // CU_DEVICE_ATTRIBUTE_...

struct Driver {
  Result (*init)(unsigned);
  Result (*device_count)(int*);
  Result (*device_get)(int*, int);
  Result (*device_name)(char*, int, int);
  Result (*device_attribute)(int*, int, int);
  Result (*device_memory)(size_t*, int);
  Result (*can_access_peer)(int*, int, int);
  Result (*retain_primary)(Handle*, int);
  Result (*set_current)(Handle);
  Result (*priority_range)(int*, int*);
  Result (*enable_peer)(Handle, unsigned);
  Result (*stream_create)(Handle*, unsigned, int);
  Result (*stream_synchronize)(Handle);
  Result (*stream_wait_event)(Handle, Handle, unsigned);
  Result (*event_create)(Handle*, unsigned);
  Result (*event_record)(Handle, Handle);
  Result (*event_query)(Handle);
  Result (*event_elapsed)(float*, Handle, Handle);
  Result (*allocate)(DevicePointer*, size_t);
  Result (*release)(DevicePointer);
  Result (*host_allocate)(void**, size_t, unsigned);
  Result (*host_release)(void*);
  Result (*copy_to_device)(DevicePointer, const void*, size_t, Handle);
  Result (*copy_to_host)(void*, DevicePointer, size_t, Handle);
  Result (*copy_within)(DevicePointer, DevicePointer, size_t, Handle);
  Result (*copy_peer)(DevicePointer, Handle, DevicePointer, Handle, size_t, Handle);
  Result (*fill)(DevicePointer, unsigned char, size_t, Handle);
  Result (*module_load)(Handle*, const void*);
  Result (*module_function)(Handle*, Handle, const char*);
  Result (*function_attribute)(Handle, int, int);
  Result (*launch)(Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Handle, void**, void**);
  Result (*begin_capture)(Handle, int);
  Result (*end_capture)(Handle, Handle*);
  Result (*graph_nodes)(Handle, Handle*, size_t*);
  Result (*graph_instantiate)(Handle*, Handle, unsigned long long);
  Result (*graph_launch)(Handle, Handle);
  Result (*graph_destroy)(Handle);
  Result (*executable_destroy)(Handle);
  Result (*error_name)(Result, const char**);
};

// cuBLAS reports in a numbering of its own; 0 is success there too.
struct Blas {
  Result (*create)(Handle*);
  Result (*set_stream)(Handle, Handle);
  Result (*set_workspace)(Handle, void*, size_t);
  Result (*set_math_mode)(Handle, int);
  Result (*gemm)(Handle, int, int, int, int, int, const void*, const void*, int, int, const void*, int, int, const void*,
                 void*, int, int, int, int);
  Result (*gemm_batched)(Handle, int, int, int, int, int, const void*, const void*, int, int, long long, const void*, int,
                         int, long long, const void*, void*, int, int, long long, int, int, int);
};

// Loads a library once; an empty text, or why it cannot be used.
std::string load_driver(const char* path, Driver& driver);
std::string load_blas(const char* path, Blas& blas);

std::string describe(const Driver& driver, Result result);  // "CUDA_ERROR_ILLEGAL_ADDRESS (700)"

// Whether a context is lost after this: it answers every later call with the error, until the process ends.
bool is_sticky(Result result);

}  // namespace dagrun::cuda
