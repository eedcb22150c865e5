// The C interface of libsoftgpu.so: run a kernel of a library that build-cu.sh (or kernelc.py) made.
// Every function may be called from any thread; launches run one at a time.
#pragma once
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

// Loads a kernel library. Null when that fails, with the reason in `report`. It is never unloaded.
void* softgpu_open(const char* path, char* report, size_t report_len);

// Tells which memory kernels may touch. A pointer argument must lie in a registered range; ranges must
// not overlap. Registering a start address again changes its length.
void softgpu_register(void* ptr, size_t bytes);
void softgpu_unregister(void* ptr);

// Runs `kernel` of `lib` on grid[0..3] blocks of block[0..3] threads and waits for it.
//   shared_bytes  dynamic shared memory (CUDA), or the length of [[threadgroup(0)]] (Metal)
//   args          as in cuLaunchKernel: args[i] points to the value of parameter i. For a Metal kernel,
//                 the parameters counted are those with a buffer index, in the order declared: a
//                 pointer parameter's value is a registered address, a reference parameter's the bytes.
//   order         0 first thread first, 1 last first, 2 and up: shuffled, the number being the seed
// Returns 0, or 1 with what went wrong as text in `report` (cut to report_len, always terminated).
// After a 1 the contents of the kernel's outputs are unspecified.
int softgpu_launch(void* lib, const char* kernel, const uint32_t grid[3], const uint32_t block[3],
                   uint32_t shared_bytes, void* const* args, uint32_t nargs, int order, char* report,
                   size_t report_len);

#ifdef __cplusplus
}
#endif
