// CUDA's vocabulary over rt/exec.cpp: a .cu file compiles as C++17 with upstream clang and runs on the
// CPU. kernelc.py puts this in front. `__shared__` and `__launch_bounds__` are kernelc.py's to read.
#pragma once
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __CUDACC__ 1
#define __CUDA_ARCH__ 800
#define SG_FN static inline __attribute__((always_inline, unused))

typedef __SIZE_TYPE__ size_t; typedef __PTRDIFF_TYPE__ ptrdiff_t; typedef __UINTPTR_TYPE__ uintptr_t;
typedef unsigned char uchar; typedef unsigned short ushort; typedef unsigned int uint; typedef unsigned long ulong;
typedef signed char int8_t; typedef short int16_t; typedef int int32_t; typedef long int64_t;
typedef unsigned char uint8_t; typedef unsigned short uint16_t; typedef unsigned int uint32_t; typedef unsigned long uint64_t;
typedef _Float16 __half; typedef __half half;
typedef __bf16 __nv_bfloat16; typedef __nv_bfloat16 nv_bfloat16;

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define FLT_MAX __FLT_MAX__
#define FLT_MIN __FLT_MIN__
#define FLT_EPSILON __FLT_EPSILON__
#define DBL_MAX __DBL_MAX__
#define DBL_MIN __DBL_MIN__
#define DBL_EPSILON __DBL_EPSILON__
#define INT_MAX __INT_MAX__
#define INT_MIN (-__INT_MAX__ - 1)
#define UINT_MAX (__INT_MAX__ * 2u + 1u)
#define INT32_MAX INT_MAX
#define INT32_MIN INT_MIN
#define INT64_MAX __LONG_MAX__
#define INT64_MIN (-__LONG_MAX__ - 1l)
#define CUDART_INF_F __builtin_inff()
#define CUDART_INF __builtin_inf()
#define CUDART_NAN_F __builtin_nanf("")
#define CUDART_NAN __builtin_nan("")

// ---- the runtime's side
extern "C" {
void sg_threadgroup_barrier(unsigned flags);
void sg_simdgroup_barrier(unsigned flags, unsigned long mask);
void sg_simd_gather(unsigned long mask, unsigned long bits, unsigned long* all, unsigned long* active);
void sg_problem(const char* what, unsigned n);
void sg_atomic(void* p, unsigned n, const void* pc);
void* sg_shared_var(const void* key, size_t size, const char* name);
void* sg_dynamic_shared();
unsigned sg_lane();
}

// ---- vectors, aligned as CUDA's. They have copy functions of their own because clang checks alignment
// where a reference is bound, not where a plain struct is copied: a misaligned vector load is an error
// here as on a GPU.
#define SG_VEC(T, N, A2, A4) \
  struct alignas(A2) N##2 { T x, y; N##2() = default; constexpr N##2(T a, T b) : x(a), y(b) {} \
    N##2(const N##2& o) : x(o.x), y(o.y) {} N##2& operator=(const N##2& o) { x = o.x; y = o.y; return *this; } }; \
  struct N##3 { T x, y, z; }; \
  struct alignas(A4) N##4 { T x, y, z, w; N##4() = default; constexpr N##4(T a, T b, T c, T d) : x(a), y(b), z(c), w(d) {} \
    N##4(const N##4& o) : x(o.x), y(o.y), z(o.z), w(o.w) {} N##4& operator=(const N##4& o) { x = o.x; y = o.y; z = o.z; w = o.w; return *this; } }; \
  SG_FN N##2 make_##N##2(T x, T y) { return {x, y}; } SG_FN N##3 make_##N##3(T x, T y, T z) { return {x, y, z}; } \
  SG_FN N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SG_VEC(signed char, char, 2, 4) SG_VEC(unsigned char, uchar, 2, 4) SG_VEC(short, short, 4, 8) SG_VEC(unsigned short, ushort, 4, 8)
SG_VEC(int, int, 8, 16) SG_VEC(unsigned, uint, 8, 16) SG_VEC(float, float, 8, 16) SG_VEC(long, long, 16, 16)
SG_VEC(unsigned long, ulong, 16, 16) SG_VEC(long long, longlong, 16, 16) SG_VEC(double, double, 16, 16)
struct dim3 { unsigned x, y, z; };
struct alignas(4) __half2 { __half x, y; }; struct alignas(4) __nv_bfloat162 { __nv_bfloat16 x, y; };
typedef __half2 half2; typedef __nv_bfloat162 nv_bfloat162;

// ---- where a thread is. Not instrumented: the runtime's own memory is no buffer.
struct sg_xyz { unsigned x, y, z, pad; };
struct sg_position { sg_xyz in_grid, in_block, block, block_size, grid_threads, grid_size; };  // the head of sg_ctx
extern "C" const sg_position* sg_current();
#define SG_WHERE(N, F) static __attribute__((noinline, unused, no_sanitize("thread"))) dim3 N() { sg_xyz v = sg_current()->F; return {v.x, v.y, v.z}; }
SG_WHERE(sg_thread, in_block) SG_WHERE(sg_block, block) SG_WHERE(sg_block_dim, block_size) SG_WHERE(sg_grid_dim, grid_size)
#define threadIdx sg_thread()
#define blockIdx sg_block()
#define blockDim sg_block_dim()
#define gridDim sg_grid_dim()
#define warpSize 32

// ---- barriers. 3: device and shared memory.
SG_FN void __syncthreads() { sg_threadgroup_barrier(3); }
SG_FN void __syncwarp(unsigned mask = ~0u) { sg_simdgroup_barrier(3, mask); }
SG_FN void __threadfence() {}
SG_FN void __threadfence_block() {}
SG_FN void __trap() { sg_problem("__trap", 0); }

// ---- bits
template <typename D, typename S> SG_FN D sg_bits(S s) { static_assert(sizeof(D) == sizeof(S), "sizes differ"); return __builtin_bit_cast(D, s); }
SG_FN int __float_as_int(float x) { return sg_bits<int>(x); } SG_FN float __int_as_float(int x) { return sg_bits<float>(x); }
SG_FN unsigned __float_as_uint(float x) { return sg_bits<unsigned>(x); } SG_FN float __uint_as_float(unsigned x) { return sg_bits<float>(x); }
SG_FN long long __double_as_longlong(double x) { return sg_bits<long long>(x); } SG_FN double __longlong_as_double(long long x) { return sg_bits<double>(x); }
SG_FN int __double2hiint(double x) { return (int)(sg_bits<unsigned long>(x) >> 32); } SG_FN int __double2loint(double x) { return (int)sg_bits<unsigned long>(x); }
SG_FN double __hiloint2double(int h, int l) { return sg_bits<double>((unsigned long)(unsigned)h << 32 | (unsigned)l); }
SG_FN int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; } SG_FN int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
SG_FN int __ffs(int x) { return __builtin_ffs(x); } SG_FN int __ffsll(long long x) { return __builtin_ffsll(x); }
SG_FN int __popc(unsigned x) { return __builtin_popcount(x); } SG_FN int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
SG_FN unsigned __brev(unsigned x) { return __builtin_bitreverse32(x); }
SG_FN unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long)a * b >> 32); } SG_FN int __mulhi(int a, int b) { return (int)((long)a * b >> 32); }

// ---- conversions
SG_FN float __half2float(__half x) { return (float)x; } SG_FN __half __float2half(float x) { return (__half)x; } SG_FN __half __float2half_rn(float x) { return (__half)x; }
SG_FN float __bfloat162float(__nv_bfloat16 x) { return (float)x; } SG_FN __nv_bfloat16 __float2bfloat16(float x) { return (__nv_bfloat16)x; } SG_FN __nv_bfloat16 __float2bfloat16_rn(float x) { return (__nv_bfloat16)x; }
SG_FN float2 __half22float2(__half2 v) { return {(float)v.x, (float)v.y}; } SG_FN __half2 __floats2half2_rn(float x, float y) { return {(__half)x, (__half)y}; }
SG_FN float2 __bfloat1622float2(__nv_bfloat162 v) { return {(float)v.x, (float)v.y}; } SG_FN __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {(__nv_bfloat16)x, (__nv_bfloat16)y}; }
SG_FN unsigned short __half_as_ushort(__half x) { return sg_bits<unsigned short>(x); } SG_FN __half __ushort_as_half(unsigned short x) { return sg_bits<__half>(x); }
SG_FN unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return sg_bits<unsigned short>(x); } SG_FN __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) { return sg_bits<__nv_bfloat16>(x); }
// what does not fit saturates, and NaN is 0, as in PTX
#define SG_CVT(NAME, R, F, LO, HI, ROUND) SG_FN R NAME(F x) { x = ROUND(x); return x != x ? 0 : x <= (F)LO ? LO : x >= (F)HI ? HI : (R)x; }
SG_CVT(__float2int_rn, int, float, INT_MIN, INT_MAX, __builtin_rintf) SG_CVT(__float2int_rd, int, float, INT_MIN, INT_MAX, __builtin_floorf)
SG_CVT(__float2int_ru, int, float, INT_MIN, INT_MAX, __builtin_ceilf) SG_CVT(__float2int_rz, int, float, INT_MIN, INT_MAX, __builtin_truncf)
SG_CVT(__double2int_rn, int, double, INT_MIN, INT_MAX, __builtin_rint) SG_CVT(__double2int_rd, int, double, INT_MIN, INT_MAX, __builtin_floor)
SG_CVT(__double2int_rz, int, double, INT_MIN, INT_MAX, __builtin_trunc)
SG_CVT(__double2ll_rn, long long, double, INT64_MIN, INT64_MAX, __builtin_rint) SG_CVT(__float2ll_rn, long long, float, INT64_MIN, INT64_MAX, __builtin_rintf)
SG_FN float __int2float_rn(int x) { return (float)x; } SG_FN double __int2double_rn(int x) { return (double)x; } SG_FN float __double2float_rn(double x) { return (float)x; }

// ---- arithmetic. Every function here is the host's, correctly rounded or nearly so: the fast ones too.
#define SG_M1(F) extern "C" float F##f(float); extern "C" double F(double); SG_FN float F(float x) { return F##f(x); }
#define SG_M2(F) extern "C" float F##f(float, float); extern "C" double F(double, double); SG_FN float F(float x, float y) { return F##f(x, y); }
SG_M1(exp) SG_M1(exp2) SG_M1(log) SG_M1(log2) SG_M1(log10) SG_M1(log1p) SG_M1(expm1) SG_M1(sqrt) SG_M1(fabs) SG_M1(floor) SG_M1(ceil) SG_M1(trunc)
SG_M1(rint) SG_M1(round) SG_M1(sin) SG_M1(cos) SG_M1(tanh) SG_M1(erf) SG_M1(nearbyint) SG_M1(logb) SG_M1(exp10)
SG_M2(fmax) SG_M2(fmin) SG_M2(pow) SG_M2(fmod) SG_M2(copysign)
extern "C" { float ldexpf(float, int); double ldexp(double, int); float scalbnf(float, int); double scalbn(double, int);
float frexpf(float, int*); double frexp(double, int*); float fmaf(float, float, float); double fma(double, double, double); int ilogbf(float); int ilogb(double); }
SG_FN float ldexp(float x, int e) { return ldexpf(x, e); } SG_FN float fma(float a, float b, float c) { return fmaf(a, b, c); }
SG_FN float rsqrtf(float x) { return 1.0f / sqrtf(x); } SG_FN double rsqrt(double x) { return 1.0 / sqrt(x); }
SG_FN float __expf(float x) { return expf(x); } SG_FN float __exp10f(float x) { return exp10f(x); } SG_FN float __logf(float x) { return logf(x); }
SG_FN float __log2f(float x) { return log2f(x); } SG_FN float __powf(float x, float y) { return powf(x, y); } SG_FN float __fdividef(float x, float y) { return x / y; }
SG_FN float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); } SG_FN double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
// never contracted: that is what they are for
#pragma clang fp contract(off)
SG_FN float __fadd_rn(float a, float b) { return a + b; } SG_FN float __fsub_rn(float a, float b) { return a - b; } SG_FN float __fmul_rn(float a, float b) { return a * b; }
SG_FN float __fdiv_rn(float a, float b) { return a / b; } SG_FN float __frcp_rn(float a) { return 1.0f / a; } SG_FN float __fsqrt_rn(float a) { return sqrtf(a); }
SG_FN double __dadd_rn(double a, double b) { return a + b; } SG_FN double __dsub_rn(double a, double b) { return a - b; } SG_FN double __dmul_rn(double a, double b) { return a * b; } SG_FN double __ddiv_rn(double a, double b) { return a / b; }
#pragma clang fp contract(fast)
#define SG_CLASSIFY(T) SG_FN bool isnan(T x) { return __builtin_isnan(x); } SG_FN bool isinf(T x) { return __builtin_isinf(x); } SG_FN bool isfinite(T x) { return __builtin_isfinite(x); } SG_FN bool signbit(T x) { return __builtin_signbit(x); }
SG_CLASSIFY(float) SG_CLASSIFY(double)
#define SG_MINMAX(T) SG_FN T min(T a, T b) { return b < a ? b : a; } SG_FN T max(T a, T b) { return a < b ? b : a; }
SG_MINMAX(int) SG_MINMAX(unsigned) SG_MINMAX(long) SG_MINMAX(unsigned long) SG_MINMAX(long long) SG_MINMAX(unsigned long long)
SG_FN float min(float a, float b) { return fminf(a, b); } SG_FN float max(float a, float b) { return fmaxf(a, b); }
SG_FN double min(double a, double b) { return fmin(a, b); } SG_FN double max(double a, double b) { return fmax(a, b); }
SG_FN int abs(int x) { return x < 0 ? -x : x; } SG_FN long long abs(long long x) { return x < 0 ? -x : x; } SG_FN float abs(float x) { return fabsf(x); } SG_FN double abs(double x) { return fabs(x); }

// ---- loads and stores with a cache hint
template <typename T> SG_FN T __ldg(const T* p) { return *p; }
template <typename T> SG_FN T __ldcs(const T* p) { return *p; }
template <typename T> SG_FN T __ldca(const T* p) { return *p; }
template <typename T> SG_FN T __ldcg(const T* p) { return *p; }
template <typename T> SG_FN void __stcs(T* p, T v) { *p = v; }
template <typename T> SG_FN void __stcg(T* p, T v) { *p = v; }

// ---- warps. A lane that reads a lane which takes no part is an error.
struct sg_warp { unsigned long all[64], active; };
// from_width: 1, 2, 4 ... 32, and the lane inside the segment
template <typename T> SG_FN T sg_take(unsigned mask, T v, unsigned from, int width) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  unsigned long bits = 0; __builtin_memcpy(&bits, &v, sizeof(T));
  sg_warp w; sg_simd_gather(mask, bits, w.all, &w.active);
  if (width < 1 || width > 32 || (width & (width - 1))) sg_problem("a shuffle of width", (unsigned)width);
  if (!(w.active >> from & 1)) sg_problem("a shuffle reads a lane that takes no part: lane", from);
  T o; __builtin_memcpy(&o, &w.all[from], sizeof(T)); return o;
}
template <typename T> SG_FN T __shfl_sync(unsigned mask, T v, int src, int width = 32) { unsigned l = sg_lane(), s = (unsigned)width - 1u; return sg_take(mask, v, (l & ~s) | ((unsigned)src & s), width); }
template <typename T> SG_FN T __shfl_up_sync(unsigned mask, T v, unsigned d, int width = 32) { unsigned l = sg_lane(), in = l & ((unsigned)width - 1u); return sg_take(mask, v, in >= d ? l - d : l, width); }
template <typename T> SG_FN T __shfl_down_sync(unsigned mask, T v, unsigned d, int width = 32) { unsigned l = sg_lane(), in = l & ((unsigned)width - 1u); return sg_take(mask, v, in + d < (unsigned)width ? l + d : l, width); }
template <typename T> SG_FN T __shfl_xor_sync(unsigned mask, T v, int m, int width = 32) {
  unsigned l = sg_lane(), o = l ^ (unsigned)m;  // a later segment is out of reach, an earlier one is not
  return sg_take(mask, v, o < (l & ~((unsigned)width - 1u)) + (unsigned)width ? o : l, width); }
SG_FN unsigned __ballot_sync(unsigned mask, int p) { sg_warp w; sg_simd_gather(mask, p != 0, w.all, &w.active); unsigned r = 0; for (int l = 0; l < 32; l++) if ((w.active >> l & 1) && w.all[l]) r |= 1u << l; return r; }
SG_FN int __any_sync(unsigned mask, int p) { return __ballot_sync(mask, p) != 0; }
SG_FN int __all_sync(unsigned mask, int p) { return __ballot_sync(mask, !p) == 0; }

// ---- atomics. Sound as plain code: threads are fibres of one CPU thread, and none is left inside one.
#define SG_ATOMIC(NAME, EXPR) template <typename T> __attribute__((noinline, no_sanitize("thread"))) T sg_##NAME(T* p, T x) { sg_atomic(p, sizeof(T), __builtin_return_address(0)); T o = *p; *p = EXPR; return o; } \
  template <typename T> SG_FN T NAME(T* p, decltype(T{}) x) { return sg_##NAME<T>(p, x); }
SG_ATOMIC(atomicAdd, o + x) SG_ATOMIC(atomicSub, o - x) SG_ATOMIC(atomicExch, x) SG_ATOMIC(atomicMax, o < x ? x : o) SG_ATOMIC(atomicMin, x < o ? x : o)
SG_ATOMIC(atomicAnd, o & x) SG_ATOMIC(atomicOr, o | x)
template <typename T> __attribute__((noinline, no_sanitize("thread"))) T sg_cas(T* p, T e, T x) { sg_atomic(p, sizeof(T), __builtin_return_address(0)); T o = *p; if (o == e) *p = x; return o; }
template <typename T> SG_FN T atomicCAS(T* p, decltype(T{}) e, decltype(T{}) x) { return sg_cas<T>(p, e, x); }
