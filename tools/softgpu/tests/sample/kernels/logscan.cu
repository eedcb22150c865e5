// CUDA twin of logscan.metal.
#include "prelude_cuda.h"
#include "dp_math.h"
#define LOGSCAN(NAME, T)                                                              \
  extern "C" __global__ void NAME(const T* x, T* y, uint n) {                         \
    __shared__ float partial[DP_SIMD];                                                \
    size_t at = size_t(blockIdx.x) * n;                                               \
    dp_row_scan<T>(x + at, y + at, n, partial, threadIdx.x, blockDim.x,               \
                   threadIdx.x % DP_SIMD, threadIdx.x / DP_SIMD,                      \
                   (blockDim.x + DP_SIMD - 1u) / DP_SIMD);                            \
  }
LOGSCAN(logscan_f32, float)
LOGSCAN(logscan_f16, __half)
LOGSCAN(logscan_bf16, __nv_bfloat16)

extern "C" __global__ void __launch_bounds__(1024)
logscan_total_f32(const float* __restrict__ y, float* total, const uint n, const uint rows) {
  extern __shared__ float scratch[];
  uint gid = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % DP_SIMD;
  float v = gid < rows ? y[size_t(gid) * n + n - 1u] : 0.0f;
  for (uint d = DP_SIMD / 2u; d > 0u; d >>= 1) v += DP_SHFL_XOR(v, d);
  if (lane == 0u) scratch[threadIdx.x / DP_SIMD] = v;
  DP_BARRIER();
  if (threadIdx.x == 0u) {
    float s = 0.0f;
    for (uint i = 0u; i < blockDim.x / DP_SIMD; i++) s += scratch[i];
    atomicAdd(total, s);
  }
}
