// The words that the other files use, in Metal.
#include <metal_stdlib>
using namespace metal;

// A product and a sum are fused where ctc_fma says so, and nowhere else: as in platform_cuda.h.
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
#define CTC_UNROLL_4 _Pragma("unroll 4")

CTC_FN float ctc_as_float(uint x) { return as_type<float>(x); }
CTC_FN uint ctc_as_uint(float x) { return as_type<uint>(x); }
CTC_FN float ctc_fma(float a, float b, float c) { return fma(a, b, c); }

// The larger; of a NaN and a number, the number or the NaN.
CTC_FN float ctc_max_number(float a, float b) { return fmax(a, b); }
CTC_FN i64 ctc_max_number(i64 a, i64 b) { return a > b ? a : b; }
CTC_FN float ctc_max_or_nan(float a, float b) { return a > b || a != a ? a : b; }
// 2^x to a few units in the last place, 2^0 exactly; what is below 2^-126 may be 0.
CTC_FN float ctc_exp2(float x) { return exp2(x); }
// a / b to a few units in the last place.
CTC_FN float ctc_divide(float a, float b) { return a / b; }

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

// a · b to 64 bits.
CTC_FN i64 ctc_wide(int a, int b) { return i64(a) * i64(b); }
// Writes two words where `yes` says so.
CTC_FN void ctc_store_if(bool yes, device uint* to, uint low, uint high) {
  if (yes) {
    to[0] = low;
    to[1] = high;
  }
}

CTC_FN float ctc_widen(float x) { return x; }
CTC_FN float ctc_widen(half x) { return float(x); }
CTC_FN float ctc_widen(bfloat x) { return float(x); }
CTC_FN void ctc_narrow(float x, device float* to) { *to = x; }
CTC_FN void ctc_narrow(float x, device half* to) { *to = half(x); }
CTC_FN void ctc_narrow(float x, device bfloat* to) { *to = bfloat(x); }

CTC_FN uint4 ctc_uint4(uint a, uint b, uint c, uint d) {
  uint4 w;
  w.x = a;
  w.y = b;
  w.z = c;
  w.w = d;
  return w;
}

// 16 bytes of entries, which are read and written at once.
CTC_FN uint4 ctc_load_once(const device uint4* from) { return *from; }
CTC_FN void ctc_store_once(device uint4* to, uint4 w) { *to = w; }

template <typename E> struct ctc_vector;
template <> struct ctc_vector<float> {
  enum { COUNT = 4 };
  static CTC_FN void get(uint4 w, thread float* v) {
    v[0] = as_type<float>(w.x);
    v[1] = as_type<float>(w.y);
    v[2] = as_type<float>(w.z);
    v[3] = as_type<float>(w.w);
  }
  static CTC_FN uint4 put(thread const float* v) {
    return ctc_uint4(as_type<uint>(v[0]), as_type<uint>(v[1]), as_type<uint>(v[2]), as_type<uint>(v[3]));
  }
};
template <> struct ctc_vector<half> {
  enum { COUNT = 8 };
  static CTC_FN void get(uint w, thread float* v) {
    v[0] = float(as_type<half>(ushort(w)));
    v[1] = float(as_type<half>(ushort(w >> 16)));
  }
  static CTC_FN void get(uint4 w, thread float* v) {
    get(w.x, v);
    get(w.y, v + 2);
    get(w.z, v + 4);
    get(w.w, v + 6);
  }
  static CTC_FN uint put2(thread const float* v) {
    return uint(as_type<ushort>(half(v[0]))) | (uint(as_type<ushort>(half(v[1]))) << 16);
  }
  static CTC_FN uint4 put(thread const float* v) { return ctc_uint4(put2(v), put2(v + 2), put2(v + 4), put2(v + 6)); }
};
template <> struct ctc_vector<bfloat> {
  enum { COUNT = 8 };
  // A bf16 is the upper half of an f32.
  static CTC_FN void get(uint w, thread float* v) {
    v[0] = as_type<float>(w << 16);
    v[1] = as_type<float>(w & 0xffff0000u);
  }
  static CTC_FN void get(uint4 w, thread float* v) {
    get(w.x, v);
    get(w.y, v + 2);
    get(w.z, v + 4);
    get(w.w, v + 6);
  }
  static CTC_FN uint put2(thread const float* v) {
    return uint(as_type<ushort>(bfloat(v[0]))) | (uint(as_type<ushort>(bfloat(v[1]))) << 16);
  }
  static CTC_FN uint4 put(thread const float* v) { return ctc_uint4(put2(v), put2(v + 2), put2(v + 4), put2(v + 6)); }
};
// By how many entries an address is beyond a whole number of vectors. Buffers begin with one.
template <typename E> CTC_FN uint ctc_phase(const device E*, i64 offset) {
  return uint(offset) % uint(ctc_vector<E>::COUNT);
}
