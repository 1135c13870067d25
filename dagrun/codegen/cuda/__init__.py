"""Generated CUDA kernels: the same bodies, params words and bits as the CPU's, for `dagrun.codegen.target` "cuda".

A kernel is CUDA C++ text. Its scalar part is written by `CudaEmitter`, an emitter that writes C++ where the CPU's
writes LLVM IR: so every scalar function is described once. Its loops are templates of `kernels/cuda/*.cuh`.

registry.py     CudaKernel(name, source, launch), CublasGemm(dtype); register(kernel) -> address; kernel_at(address)
emitter.py      CudaEmitter
<family>.py     kernel(...) -> address; called by the `..._kernel` function of dagrun/codegen/<family>.py

A kernel may fail where its CPU body does, with the same code and details, but what it has written by then stays, and
which of several bad positions it names may vary. Bits differ from the CPU's in NaN (sign and payload), and where both
call a C library: float64 log2, log10, power, arcsin, arccos, arctan, arctan2, sinh, cosh, arcsinh, arccosh, arctanh,
hypot, and sin, cos and tan of arguments above 2^20 or so near a multiple of pi/2 that a reduction of 118 bits is too
short. CUDA's documentation states at most 4 units in the last place for each. Kernels that the CPU does not have
(`implicit_gemm`, `direct_convolution`) sum in another order, with fused multiply-add.
"""
