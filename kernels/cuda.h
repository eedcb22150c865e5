// The words that ctc_core.h and ctc_kernels.h use, in CUDA.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef unsigned int uint;
typedef long long i64;
typedef unsigned long long u64;
typedef __nv_bfloat16 bfloat;

// A product and a sum are fused where ctc_fma says so, and nowhere else: a fused one would put the rounding of a
// product twice into sums of two parts. For nvcc that is -fmad=false, in build.rs.
#ifdef __clang__
#pragma clang fp contract(off)
#endif

#define CTC_FN __device__ __forceinline__
#define CTC_RARE __device__ __noinline__
// Address spaces: CUDA has one.
#define CTC_DEVICE
#define CTC_SHARED
#define CTC_THREAD
#define CTC_CONSTANT
#define CTC_UNROLL _Pragma("unroll")

CTC_FN float ctc_as_float(uint x) { return __uint_as_float(x); }
CTC_FN uint ctc_as_uint(float x) { return __float_as_uint(x); }
CTC_FN double ctc_as_double(u64 x) { return __longlong_as_double((i64)x); }
CTC_FN u64 ctc_as_ulong(double x) { return (u64)__double_as_longlong(x); }
CTC_FN float ctc_fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
CTC_FN double ctc_fma(double a, double b, double c) { return __fma_rn(a, b, c); }

// All threads of a block, and what they wrote.
CTC_FN void ctc_barrier() { __syncthreads(); }
// The 32 threads of a warp, and what they wrote.
CTC_FN void ctc_simd_barrier() { __syncwarp(); }

template <typename T> CTC_FN T ctc_shuffle_up(T x) { return __shfl_up_sync(0xffffffffu, x, 1u); }
template <typename T> CTC_FN T ctc_shuffle_xor(T x, uint mask) { return __shfl_xor_sync(0xffffffffu, x, (int)mask); }

CTC_FN float ctc_widen(float x) { return x; }
CTC_FN double ctc_widen(double x) { return x; }
CTC_FN float ctc_widen(__half x) { return __half2float(x); }
CTC_FN float ctc_widen(bfloat x) { return __bfloat162float(x); }
CTC_FN void ctc_narrow(float x, float* to) { *to = x; }
CTC_FN void ctc_narrow(double x, double* to) { *to = x; }
CTC_FN void ctc_narrow(float x, __half* to) { *to = __float2half_rn(x); }
CTC_FN void ctc_narrow(float x, bfloat* to) { *to = __float2bfloat16_rn(x); }
