// The kernels for CUDA. common.h says which there are, and each file what its own do and cost.
#include "platform_cuda.h"
#include "number.h"
#include "number_f64.h"
#include "common.h"
#include "prepare.h"
#include "rows.h"
#include "gather.h"
#include "lattice.h"
#include "gradient.h"
#include "best_path.h"

CTC_FN ctc_thread ctc_here() {
  ctc_thread at;
  at.block = blockIdx.x;
  at.blocks = gridDim.x;
  at.index = threadIdx.x;
  at.threads = blockDim.x;
  at.lane = threadIdx.x & 31u;
  at.warp = threadIdx.x >> 5;
  at.warps = blockDim.x >> 5;
  return at;
}

#define CTC_KERNEL extern "C" __global__ void

// All kernels, or with CTC_IMAGE those of one image: build.rs compiles each by itself, so that a driver which must
// compile PTX compiles what is used. src/gpu/cuda.rs knows which kernel is in which.
#define CTC_COMMON 1
#define CTC_ROWS_F32 2
#define CTC_ROWS_F16 3
#define CTC_ROWS_BF16 4
#define CTC_ROWS_F64 5
#define CTC_LATTICE_F32_1 6
#define CTC_LATTICE_F32_2 7
#define CTC_LATTICE_F32_4 8
#define CTC_LATTICE_F64 9
#define CTC_BEST_PATH 10
#ifdef CTC_IMAGE
#define CTC_IN(IMAGE) (CTC_IMAGE == IMAGE)
#else
#define CTC_IN(IMAGE) 1
#endif

#define CTC_WIDEN(NAME, T)                                                                          \
  CTC_KERNEL __launch_bounds__(256) ctc_widen_##NAME(ctc_integers p, const T* from, i64* to) {      \
    ctc_widen_body<T>(p, from, to, ctc_here());                                                     \
  }

#if CTC_IN(CTC_COMMON)
CTC_KERNEL __launch_bounds__(256)
    ctc_prepare(ctc_sizes p, i64 row, i64 count, const i64* integers, uint* tables) {
  ctc_prepare_body(p, row, count, integers, tables, ctc_here());
}
#endif

// The blocks of 256 threads that a multiprocessor is to hold at once set how many registers a thread may have.
#define CTC_ROWS(NAME, M, E, GATHER, GRADIENT, SHORT)                                               \
  CTC_KERNEL __launch_bounds__(256, GATHER)                                                         \
      ctc_gather_##NAME(ctc_sizes p, const E* input, const uint* tables, ctc_emission<M>* emissions, \
                        M* records, M* stats, uint wide) {                                          \
    __shared__ M shared[32];                                                                        \
    ctc_gather_body<M, E, false>(p, input, tables, emissions, records, stats, (const M*)0, wide != 0u, \
                                 ctc_here(), shared);                                               \
  }                                                                                                 \
  CTC_KERNEL __launch_bounds__(256, GATHER)                                                         \
      ctc_gather_weighted_##NAME(ctc_sizes p, const E* input, const uint* tables,                   \
                                 ctc_emission<M>* emissions, M* records, M* stats, const M* weights, \
                                 uint wide) {                                                       \
    __shared__ M shared[32];                                                                        \
    ctc_gather_body<M, E, true>(p, input, tables, emissions, records, stats, weights, wide != 0u,   \
                                ctc_here(), shared);                                                \
  }                                                                                                 \
  CTC_KERNEL __launch_bounds__(256, GRADIENT)                                                       \
      ctc_gradient_##NAME(ctc_sizes p, const E* input, const uint* tables,                          \
                          const ctc_real<M>::word* kept, const M* stats, const M* losses,           \
                          const M* upstream, E* gradient, uint wide) {                              \
    __shared__ M shared[32];                                                                        \
    ctc_gradient_body<M, E, true>(p, input, tables, kept, stats, losses, upstream, gradient, 0,     \
                                  wide != 0u, ctc_here(), shared);                                  \
  }                                                                                                 \
  CTC_KERNEL __launch_bounds__(32 * CTC_SHORT_WARPS, 2 * GATHER)                                    \
      ctc_gather_short_##NAME(ctc_sizes p, const E* input, const uint* tables,                      \
                              ctc_emission<M>* emissions, M* records, M* stats) {                   \
    __shared__ M shared[32];                                                                        \
    ctc_gather_short_body<M, E>(p, input, tables, emissions, records, stats, ctc_here(), shared);   \
  }                                                                                                 \
  CTC_KERNEL __launch_bounds__(32 * CTC_SHORT_WARPS, 2 * SHORT)                                     \
      ctc_gradient_short_##NAME(ctc_sizes p, const E* input, const uint* tables,                    \
                                const ctc_real<M>::word* kept, const M* stats, const M* losses,     \
                                const M* upstream, E* gradient) {                                   \
    __shared__ M shared[32];                                                                        \
    __shared__ M posteriors[CTC_SHORT_WARPS * CTC_SHORT_LABELS];                                    \
    __shared__ uint places[CTC_SHORT_WARPS * (CTC_SHORT_LABELS + CTC_LONG_ROW)];                    \
    ctc_gradient_short_body<M, E>(p, input, tables, kept, stats, losses, upstream, gradient,        \
                                  ctc_here(), shared, posteriors, places);                          \
  }

#define CTC_REDUCE(NAME, M)                                                                         \
  CTC_KERNEL __launch_bounds__(256) ctc_reduce_##NAME(i64 count, const M* losses, M* sum) {         \
    __shared__ M shared[32];                                                                        \
    ctc_reduce_body<M>(count, losses, sum, ctc_here(), shared);                                     \
  }

// The states between two rounds of frames stand in shared memory, or for long targets in `edges`.
#define CTC_LATTICE(NAME, M, K, DEPTH, THREADS)                                                     \
  CTC_KERNEL __launch_bounds__(THREADS)                                                             \
      ctc_lattice_##NAME##_##K(ctc_sizes p, const uint* tables, const ctc_emission<M>* emissions,   \
                               const M* records, ctc_real<M>::word* kept, M* losses, M* weighted) { \
    extern __shared__ u64 dynamic[];                                                                \
    __shared__ M sums[8];                                                                           \
    __shared__ i64 tops[1];                                                                         \
    ctc_lattice_body<M, K, DEPTH>(p, tables, emissions, records, kept, losses, weighted,            \
                                  (ctc_edge<M>*)dynamic, ctc_here(), sums, tops);                   \
  }
#define CTC_LATTICE_SPILL(NAME, M, K, DEPTH, THREADS)                                               \
  CTC_KERNEL __launch_bounds__(THREADS)                                                             \
      ctc_lattice_##NAME##_##K##_spill(ctc_sizes p, const uint* tables,                             \
                                       const ctc_emission<M>* emissions, const M* records,          \
                                       ctc_real<M>::word* kept, M* losses, M* weighted,             \
                                       ctc_edge<M>* edges) {                                        \
    __shared__ M sums[8];                                                                           \
    __shared__ i64 tops[1];                                                                         \
    ctc_thread at = ctc_here();                                                                     \
    ctc_lattice_body<M, K, DEPTH>(p, tables, emissions, records, kept, losses, weighted,            \
                                  edges + (i64)at.block * 4 * (p.labels + 1), at, sums, tops);      \
  }

#define CTC_BEST(NAME, M, E)                                                                        \
  CTC_KERNEL __launch_bounds__(512)                                                                 \
      ctc_best_path_##NAME(ctc_sizes p, const E* input, const uint* tables, const M* stats,         \
                           double* rows, double* kept, ctc_note* notes, i64 window, uint spilled,   \
                           uint* states, M* scores, uint* found) {                                  \
    extern __shared__ u64 dynamic[];                                                                \
    __shared__ int path[2];                                                                         \
    __shared__ ctc_note tile[CTC_NOTES * CTC_NOTES];                                                \
    __shared__ float shared[32];                                                                    \
    ctc_best_path_body<M, E>(p, input, tables, stats, rows, kept, notes, window, spilled, states,   \
                             scores, found, (double*)dynamic, path, tile, shared, ctc_here());      \
  }

#if CTC_IN(CTC_COMMON)
CTC_WIDEN(u8, unsigned char)
CTC_WIDEN(u32, uint)
CTC_WIDEN(i16, short)
CTC_WIDEN(i32, int)
CTC_WIDEN(i64, i64)
CTC_REDUCE(f32, float)
#endif
#if CTC_IN(CTC_ROWS_F32)
CTC_ROWS(f32, float, float, 4, 3, 4)
#endif

// Pairs a thread, frames of a block (of which two are in registers), and the most threads, so that registers suffice.
#if CTC_IN(CTC_LATTICE_F32_1)
CTC_LATTICE(f32, float, 1, 8, 64)
#endif
#if CTC_IN(CTC_LATTICE_F32_2)
CTC_LATTICE(f32, float, 2, 4, 256)
#endif
#if CTC_IN(CTC_LATTICE_F32_4)
CTC_LATTICE(f32, float, 4, 2, 256)
CTC_LATTICE_SPILL(f32, float, 4, 2, 256)
#endif

#if CTC_IN(CTC_BEST_PATH)
CTC_BEST(f32, float, float)
#endif

// The checks of planted faults compile many times, and need no more than f32. Targets for fewer pairs a thread than 4
// fit any shared memory there is.
#ifndef CTC_F32_ALONE
#if CTC_IN(CTC_LATTICE_F32_1)
CTC_LATTICE_SPILL(f32, float, 1, 8, 64)
#endif
#if CTC_IN(CTC_LATTICE_F32_2)
CTC_LATTICE_SPILL(f32, float, 2, 4, 256)
#endif
#if CTC_IN(CTC_COMMON)
CTC_REDUCE(f64, double)
#endif
#if CTC_IN(CTC_ROWS_F16)
CTC_ROWS(f16, float, __half, 4, 3, 4)
#endif
#if CTC_IN(CTC_ROWS_BF16)
CTC_ROWS(bf16, float, bfloat, 4, 3, 4)
#endif
#if CTC_IN(CTC_ROWS_F64)
CTC_ROWS(f64, double, double, 2, 2, 2)
#endif
#if CTC_IN(CTC_LATTICE_F64)
CTC_LATTICE(f64, double, 1, 2, 64)
CTC_LATTICE_SPILL(f64, double, 1, 2, 64)
CTC_LATTICE(f64, double, 2, 2, 256)
CTC_LATTICE_SPILL(f64, double, 2, 2, 256)
#endif
#if CTC_IN(CTC_BEST_PATH)
CTC_BEST(f16, float, __half)
CTC_BEST(bf16, float, bfloat)
CTC_BEST(f64, double, double)
#endif
#endif
