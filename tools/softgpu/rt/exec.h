// Between the executor (exec.cpp), the software Metal (metal.cpp) and translated kernels. glue.h
// repeats these types for kernels, which see no standard header: keep the two alike.
#pragma once
#include <cstddef>
#include <cstdint>
typedef uint32_t sg_u3[4];  // x y z and padding
struct sg_ctx {
  sg_u3 thread_position_in_grid, thread_position_in_threadgroup, threadgroup_position_in_grid,
      threads_per_threadgroup, threads_per_grid, threadgroups_per_grid, dispatch_threads_per_threadgroup,
      grid_size;
  uint32_t thread_index_in_threadgroup, thread_index_in_simdgroup, simdgroup_index_in_threadgroup,
      simdgroups_per_threadgroup, threads_per_simdgroup;
};
enum { SG_BUFFER = 0, SG_TGMEM = 1, SG_BUILTIN = 2, SG_VALUE = 3 };  // SG_VALUE: a CUDA parameter
struct sg_param {
  int kind, index;
  uint32_t size, align;  // SG_VALUE: of the parameter; else of what is pointed to (0 when unknown)
  int is_ref, is_const, is_ptr;
  const char* name;
};
struct sg_kernel {
  const char* name;
  void (*invoke)(void* const* args, void* const* tg, const sg_ctx*);
  const sg_param* params;
  unsigned nparams;
  char *mod_begin, *mod_end;  // the library's image: constants
  char *fc_begin, *fc_end;    // its function constants (Metal)
  int instrumented, cuda;
  unsigned max_threads;  // __launch_bounds__, or 0
};
struct sg_buf {
  void* ptr;      // already offset
  size_t len;     // bytes from ptr to the end
  size_t offset;  // the offset that was applied
  int is_bytes;   // setBytes
};
struct sg_dispatch {  // Metal's
  sg_buf bufs[31];
  size_t tgmem[31];
  size_t groups[3], threads[3];  // threadgroups in the grid; threads in each
  size_t grid_threads[3];        // dispatchThreads only: the grid in threads (0: groups * threads)
};
// null on success, else what went wrong (valid until the next call on this thread)
const char* sg_run(const sg_kernel* k, const sg_dispatch* d, int order);
// hashing and loading of kernel libraries
struct sg_lib { void* handle; const sg_kernel* kernels; unsigned n; };
const char* sg_load(const char* path, sg_lib* out);
