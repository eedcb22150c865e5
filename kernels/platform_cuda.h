// The words that the other files use, in CUDA.
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
#define CTC_UNROLL_4 _Pragma("unroll 4")

CTC_FN float ctc_as_float(uint x) { return __uint_as_float(x); }
CTC_FN uint ctc_as_uint(float x) { return __float_as_uint(x); }
CTC_FN double ctc_as_double(u64 x) { return __longlong_as_double((i64)x); }
CTC_FN u64 ctc_as_ulong(double x) { return (u64)__double_as_longlong(x); }
CTC_FN float ctc_fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
CTC_FN double ctc_fma(double a, double b, double c) { return __fma_rn(a, b, c); }

// The larger; of a NaN and a number, the number or the NaN.
CTC_FN float ctc_max_number(float a, float b) { return fmaxf(a, b); }
CTC_FN double ctc_max_number(double a, double b) { return fmax(a, b); }
CTC_FN i64 ctc_max_number(i64 a, i64 b) { return a > b ? a : b; }
template <typename T> CTC_FN T ctc_max_or_nan(T a, T b) { return a > b || a != a ? a : b; }
#if defined(__NVCC__) && __CUDA_ARCH__ >= 800
CTC_FN float ctc_max_or_nan(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
#endif
// 2^x to 2 units in the last place, 2^0 exactly; what is below 2^-126 may be 0.
CTC_FN float ctc_exp2(float x) {
#ifdef __NVCC__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}

// a / b to 2 units in the last place, for b between 2^-126 and 2^126.
CTC_FN float ctc_divide(float a, float b) {
#ifdef __NVCC__
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(b));
  return a * y;
#else
  return a / b;
#endif
}
CTC_FN double ctc_divide(double a, double b) { return a / b; }

// All threads of a block, and what they wrote.
CTC_FN void ctc_barrier() { __syncthreads(); }
// The 32 threads of a warp, and what they wrote.
CTC_FN void ctc_simd_barrier() { __syncwarp(); }

template <typename T> CTC_FN T ctc_shuffle_up(T x) { return __shfl_up_sync(0xffffffffu, x, 1u); }
template <typename T> CTC_FN T ctc_shuffle_xor(T x, uint mask) { return __shfl_xor_sync(0xffffffffu, x, (int)mask); }

#ifdef __NVCC__
// a · b to 64 bits. In PTX, since nvcc moves the widening of a factor out of a loop, and then no longer knows that one
// instruction makes the product.
CTC_FN i64 ctc_wide(int a, int b) {
  i64 product;
  asm("mul.wide.s32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
  return product;
}
// Writes two words if `yes`. In PTX, since nvcc would branch around the store and all instructions that only the
// store needs; those would then no longer fill the waits of the neighbouring steps.
CTC_FN void ctc_store_if(bool yes, uint* to, uint low, uint high) {
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %0, 0; @p st.global.v2.b32 [%1], {%2, %3}; }"
               :: "r"((int)yes), "l"(to), "r"(low), "r"(high) : "memory");
}
CTC_FN void ctc_store_if(bool yes, u64* to, u64 low, u64 high) {
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %0, 0; @p st.global.v2.b64 [%1], {%2, %3}; }"
               :: "r"((int)yes), "l"(to), "l"(low), "l"(high) : "memory");
}
#else
CTC_FN i64 ctc_wide(int a, int b) { return (i64)a * (i64)b; }
template <typename T> CTC_FN void ctc_store_if(bool yes, T* to, T low, T high) {
  if (yes) {
    to[0] = low;
    to[1] = high;
  }
}
#endif

// A vector that is read once, or written and not read: the cache keeps others.
CTC_FN uint4 ctc_load_once(const uint4* from) { return __ldcs(from); }
CTC_FN void ctc_store_once(uint4* to, uint4 w) { __stcs(to, w); }

CTC_FN float ctc_widen(float x) { return x; }
CTC_FN double ctc_widen(double x) { return x; }
CTC_FN float ctc_widen(__half x) { return __half2float(x); }
CTC_FN float ctc_widen(bfloat x) { return __bfloat162float(x); }
CTC_FN void ctc_narrow(float x, float* to) { *to = x; }
CTC_FN void ctc_narrow(double x, double* to) { *to = x; }
CTC_FN void ctc_narrow(float x, __half* to) { *to = __float2half_rn(x); }
CTC_FN void ctc_narrow(float x, bfloat* to) { *to = __float2bfloat16_rn(x); }

// 16 bytes of entries, which are read and written at once.
template <typename E> struct ctc_vector;
template <> struct ctc_vector<float> {
  enum { COUNT = 4 };
  static CTC_FN void get(uint4 w, float* v) {
    v[0] = ctc_as_float(w.x);
    v[1] = ctc_as_float(w.y);
    v[2] = ctc_as_float(w.z);
    v[3] = ctc_as_float(w.w);
  }
  static CTC_FN uint4 put(const float* v) {
    return make_uint4(ctc_as_uint(v[0]), ctc_as_uint(v[1]), ctc_as_uint(v[2]), ctc_as_uint(v[3]));
  }
};
template <> struct ctc_vector<double> {
  enum { COUNT = 2 };
  static CTC_FN void get(uint4 w, double* v) {
    v[0] = ctc_as_double(((u64)w.y << 32) | w.x);
    v[1] = ctc_as_double(((u64)w.w << 32) | w.z);
  }
  static CTC_FN uint4 put(const double* v) {
    u64 a = ctc_as_ulong(v[0]), b = ctc_as_ulong(v[1]);
    return make_uint4((uint)a, (uint)(a >> 32), (uint)b, (uint)(b >> 32));
  }
};
template <> struct ctc_vector<__half> {
  enum { COUNT = 8 };
  static CTC_FN void get(uint w, float* v) {
    v[0] = __half2float(__ushort_as_half((unsigned short)w));
    v[1] = __half2float(__ushort_as_half((unsigned short)(w >> 16)));
  }
  static CTC_FN void get(uint4 w, float* v) {
    get(w.x, v);
    get(w.y, v + 2);
    get(w.z, v + 4);
    get(w.w, v + 6);
  }
  static CTC_FN uint put2(const float* v) {
    return __half_as_ushort(__float2half_rn(v[0])) | ((uint)__half_as_ushort(__float2half_rn(v[1])) << 16);
  }
  static CTC_FN uint4 put(const float* v) { return make_uint4(put2(v), put2(v + 2), put2(v + 4), put2(v + 6)); }
};
template <> struct ctc_vector<bfloat> {
  enum { COUNT = 8 };
  // A bf16 is the upper half of an f32.
  static CTC_FN void get(uint w, float* v) {
    v[0] = ctc_as_float(w << 16);
    v[1] = ctc_as_float(w & 0xffff0000u);
  }
  static CTC_FN void get(uint4 w, float* v) {
    get(w.x, v);
    get(w.y, v + 2);
    get(w.z, v + 4);
    get(w.w, v + 6);
  }
  static CTC_FN uint put2(const float* v) {
    return __bfloat16_as_ushort(__float2bfloat16_rn(v[0])) | ((uint)__bfloat16_as_ushort(__float2bfloat16_rn(v[1])) << 16);
  }
  static CTC_FN uint4 put(const float* v) { return make_uint4(put2(v), put2(v + 2), put2(v + 4), put2(v + 6)); }
};
// By how many entries an address is beyond a whole number of vectors.
template <typename E> CTC_FN uint ctc_phase(const E* base, i64 offset) {
  return (uint)((u64)(base + offset) % 16u / sizeof(E));
}
