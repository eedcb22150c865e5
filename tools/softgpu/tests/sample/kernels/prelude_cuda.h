// Backend vocabulary for dp_math.h: CUDA.
#include <math_constants.h>
#include <cuda_fp16.h>
#include <cuda_bf16.h>
typedef unsigned int uint;
typedef unsigned short ushort;

#define DP_FN __device__ __forceinline__
#define DP_SHARED
#define DP_GLOBAL
#define DP_THREAD
#define DP_SIMD 32u
#define DP_NEG_INF (-CUDART_INF_F)
#define DP_EXP(x) expf(x)
#define DP_LOG(x) logf(x)
#define DP_MAX(a, b) fmaxf(a, b)
#define DP_MIN(a, b) fminf(a, b)
#define DP_SHFL_UP(v, d) __shfl_up_sync(0xffffffffu, v, d)
#define DP_SHFL_XOR(v, m) __shfl_xor_sync(0xffffffffu, v, m)
#define DP_BARRIER() __syncthreads()
