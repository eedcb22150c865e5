// The words that ctc_core.h and ctc_kernels.h use, in Metal.
#include <metal_stdlib>
using namespace metal;

// A product and a sum are fused where ctc_fma says so, and nowhere else: as in cuda.h.
#pragma clang fp contract(off)

typedef long i64;
typedef ulong u64;

#define CTC_FN METAL_FUNC
#define CTC_RARE __attribute__((noinline))
#define CTC_DEVICE device
#define CTC_SHARED threadgroup
#define CTC_THREAD thread
#define CTC_CONSTANT constant
#define CTC_UNROLL _Pragma("unroll")

CTC_FN float ctc_as_float(uint x) { return as_type<float>(x); }
CTC_FN uint ctc_as_uint(float x) { return as_type<uint>(x); }
CTC_FN float ctc_fma(float a, float b, float c) { return fma(a, b, c); }

// All threads of a threadgroup, and what they wrote.
CTC_FN void ctc_barrier() { threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device); }
// The 32 threads of a SIMD-group, and what they wrote.
CTC_FN void ctc_simd_barrier() { simdgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device); }

// SIMD functions move 32 bits at most.
CTC_FN float ctc_shuffle_up(float x) { return simd_shuffle_up(x, ushort(1)); }
CTC_FN int ctc_shuffle_up(int x) { return simd_shuffle_up(x, ushort(1)); }
CTC_FN i64 ctc_shuffle_up(i64 x) {
  uint low = simd_shuffle_up(uint(u64(x)), ushort(1));
  uint high = simd_shuffle_up(uint(u64(x) >> 32), ushort(1));
  return i64((u64(high) << 32) | u64(low));
}
CTC_FN float ctc_shuffle_xor(float x, uint mask) { return simd_shuffle_xor(x, ushort(mask)); }
CTC_FN int ctc_shuffle_xor(int x, uint mask) { return simd_shuffle_xor(x, ushort(mask)); }
CTC_FN i64 ctc_shuffle_xor(i64 x, uint mask) {
  uint low = simd_shuffle_xor(uint(u64(x)), ushort(mask));
  uint high = simd_shuffle_xor(uint(u64(x) >> 32), ushort(mask));
  return i64((u64(high) << 32) | u64(low));
}

CTC_FN float ctc_widen(float x) { return x; }
CTC_FN float ctc_widen(half x) { return float(x); }
CTC_FN float ctc_widen(bfloat x) { return float(x); }
CTC_FN void ctc_narrow(float x, device float* to) { *to = x; }
CTC_FN void ctc_narrow(float x, device half* to) { *to = half(x); }
CTC_FN void ctc_narrow(float x, device bfloat* to) { *to = bfloat(x); }
