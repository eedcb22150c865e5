// Appended to a translated kernel file: how a kernel's C++ parameters are filled. It sees no standard
// header, so the types of exec.h are repeated here.
#pragma once
typedef uint sg_u3[4];
struct sg_ctx {
  sg_u3 thread_position_in_grid, thread_position_in_threadgroup, threadgroup_position_in_grid,
      threads_per_threadgroup, threads_per_grid, threadgroups_per_grid, dispatch_threads_per_threadgroup,
      grid_size;
  uint thread_index_in_threadgroup, thread_index_in_simdgroup, simdgroup_index_in_threadgroup,
      simdgroups_per_threadgroup, threads_per_simdgroup;
};
struct sg_param { int kind, index; uint size, align; int is_ref, is_const, is_ptr; const char* name; };
struct sg_kernel { const char* name; void (*invoke)(void* const*, void* const*, const sg_ctx*); const sg_param* params; unsigned nparams; char *mod_begin, *mod_end, *fc_begin, *fc_end; int instrumented, cuda; unsigned max_threads; };
// the library's own image, from its ELF header to its end
extern "C" { extern char __ehdr_start[] __attribute__((visibility("hidden"))); extern char _end[] __attribute__((visibility("hidden"))); }
#if __has_feature(thread_sanitizer)
#define SG_INSTRUMENTED 1
#else
#define SG_INSTRUMENTED 0
#endif
namespace sg_glue {
template <int N, typename T, typename... R> struct nth { typedef typename nth<N - 1, R...>::type type; };
template <typename T, typename... R> struct nth<0, T, R...> { typedef T type; };
template <typename F> struct fn;
template <typename... A> struct fn<void (*)(A...)> { template <int N> using arg = typename nth<N, A...>::type; };
template <typename T> struct is_const { enum { v = 0 }; };
template <typename T> struct is_const<const T> { enum { v = 1 }; };
template <typename T> struct size_of { enum { v = 0, a = 0, ref = 0, cst = 0 }; };
template <typename T> struct size_of<T*> { enum { v = sizeof(T), a = alignof(T), ref = 0, cst = is_const<T>::v }; };
template <> struct size_of<void*> { enum { v = 0, a = 0, ref = 0, cst = 0 }; };
template <> struct size_of<const void*> { enum { v = 0, a = 0, ref = 0, cst = 1 }; };
template <typename T> struct size_of<T&> { enum { v = sizeof(T), a = alignof(T), ref = 1, cst = is_const<T>::v }; };
template <typename T> struct is_ptr { enum { v = 0 }; };
template <typename T> struct is_ptr<T*> { enum { v = 1 }; };
// Sound: the executor checked that the bound memory is large enough and aligned for T.
template <typename T> struct ptr_cast { };
template <typename T> struct ptr_cast<T*> { static T* f(void* p) { return (T*)p; } };
template <typename T> struct ptr_cast<T&> { static T& f(void* p) { return *(T*)p; } };
template <typename T> T from_ptr(void* p) { return ptr_cast<T>::f(p); }
template <typename T> struct mk { static T f(const sg_u3& v) { return (T)v[0]; } };
template <> struct mk<uint2> { static uint2 f(const sg_u3& v) { return uint2{v[0], v[1]}; } };
template <> struct mk<uint3> { static uint3 f(const sg_u3& v) { return uint3{v[0], v[1], v[2]}; } };
template <> struct mk<ushort2> { static ushort2 f(const sg_u3& v) { return ushort2{(ushort)v[0], (ushort)v[1]}; } };
template <> struct mk<ushort3> { static ushort3 f(const sg_u3& v) { return ushort3{(ushort)v[0], (ushort)v[1], (ushort)v[2]}; } };
template <typename T> struct strip { typedef T type; };
template <typename T> struct strip<const T> { typedef T type; };
// CUDA: a parameter's value, from where the launch says it is
template <typename T> T value(void* p) { return *(T*)p; }
template <typename T> typename strip<T>::type vec(const sg_u3& v) { return mk<typename strip<T>::type>::f(v); }
}
// float -> bfloat, to nearest even; libgcc has it only from 13 on
extern "C" __attribute__((weak)) __bf16 __truncsfbf2(float f) {
  uint u = __builtin_bit_cast(uint, f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return __builtin_bit_cast(__bf16, (ushort)((u >> 16) | 0x40u));
  return __builtin_bit_cast(__bf16, (ushort)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16));
}
