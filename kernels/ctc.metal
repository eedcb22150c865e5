// The kernels for Metal. common.h says which there are, and each file what its own do and cost; they stand before this
// text, as src/gpu/metal.rs joins them.

CTC_FN ctc_thread ctc_here(uint block, uint blocks, uint index, uint threads) {
  ctc_thread at;
  at.block = block;
  at.blocks = blocks;
  at.index = index;
  at.threads = threads;
  at.lane = index & 31u;
  at.warp = index >> 5;
  at.warps = threads >> 5;
  return at;
}

#define CTC_POSITION_ARGUMENTS                                                                      \
  uint block [[threadgroup_position_in_grid]], uint blocks [[threadgroups_per_grid]],               \
      uint index [[thread_index_in_threadgroup]], uint threads [[threads_per_threadgroup]]
#define CTC_HERE ctc_here(block, blocks, index, threads)

#define CTC_WIDEN(NAME, T)                                                                          \
  kernel void ctc_widen_##NAME(constant ctc_integers& p [[buffer(0)]], const device T* from [[buffer(1)]], \
                               device i64* to [[buffer(2)]], CTC_POSITION_ARGUMENTS) {              \
    ctc_widen_body<T>(p, from, to, CTC_HERE);                                                       \
  }

kernel void ctc_prepare(constant ctc_sizes& p [[buffer(0)]], constant i64& row [[buffer(1)]],
                        constant i64& count [[buffer(2)]], const device i64* integers [[buffer(3)]],
                        device uint* tables [[buffer(4)]], CTC_POSITION_ARGUMENTS) {
  ctc_prepare_body(p, row, count, integers, tables, CTC_HERE);
}

#define CTC_ROWS(NAME, E)                                                                           \
  kernel void ctc_gather_##NAME(constant ctc_sizes& p [[buffer(0)]], const device E* input [[buffer(1)]], \
                                const device uint* tables [[buffer(2)]],                            \
                                device ctc_emission<float>* emissions [[buffer(3)]],                \
                                device float* records [[buffer(4)]], device float* stats [[buffer(5)]], \
                                constant uint& wide [[buffer(6)]], CTC_POSITION_ARGUMENTS) {        \
    threadgroup float shared[32];                                                                   \
    ctc_gather_body<float, E, false>(p, input, tables, emissions, records, stats, nullptr, wide != 0u, CTC_HERE, shared); \
  }                                                                                                 \
  kernel void ctc_gather_weighted_##NAME(constant ctc_sizes& p [[buffer(0)]], const device E* input [[buffer(1)]], \
                                         const device uint* tables [[buffer(2)]],                   \
                                         device ctc_emission<float>* emissions [[buffer(3)]],       \
                                         device float* records [[buffer(4)]], device float* stats [[buffer(5)]], \
                                         const device float* weights [[buffer(6)]], constant uint& wide [[buffer(7)]], \
                                         CTC_POSITION_ARGUMENTS) {                                  \
    threadgroup float shared[32];                                                                   \
    ctc_gather_body<float, E, true>(p, input, tables, emissions, records, stats, weights, wide != 0u, CTC_HERE, shared); \
  }                                                                                                 \
  kernel void ctc_gradient_##NAME(constant ctc_sizes& p [[buffer(0)]], const device E* input [[buffer(1)]], \
                                  const device uint* tables [[buffer(2)]],                          \
                                  const device uint* kept [[buffer(3)]], const device float* stats [[buffer(4)]], \
                                  const device float* losses [[buffer(5)]], const device float* upstream [[buffer(6)]], \
                                  device E* gradient [[buffer(7)]], constant uint& wide [[buffer(8)]], \
                                  CTC_POSITION_ARGUMENTS) {                                         \
    threadgroup float shared[32];                                                                   \
    ctc_gradient_body<float, E, true>(p, input, tables, kept, stats, losses, upstream, gradient, 0, \
                                      wide != 0u, CTC_HERE, shared);                                \
  }                                                                                                 \
  kernel void ctc_gather_short_##NAME(constant ctc_sizes& p [[buffer(0)]], const device E* input [[buffer(1)]], \
                                      const device uint* tables [[buffer(2)]],                      \
                                      device ctc_emission<float>* emissions [[buffer(3)]],          \
                                      device float* records [[buffer(4)]], device float* stats [[buffer(5)]], \
                                      CTC_POSITION_ARGUMENTS) {                                     \
    threadgroup float shared[32];                                                                   \
    ctc_gather_short_body<float, E>(p, input, tables, emissions, records, stats, CTC_HERE, shared); \
  }                                                                                                 \
  kernel void ctc_gradient_short_##NAME(constant ctc_sizes& p [[buffer(0)]], const device E* input [[buffer(1)]], \
                                        const device uint* tables [[buffer(2)]],                    \
                                        const device uint* kept [[buffer(3)]], const device float* stats [[buffer(4)]], \
                                        const device float* losses [[buffer(5)]],                   \
                                        const device float* upstream [[buffer(6)]],                 \
                                        device E* gradient [[buffer(7)]], CTC_POSITION_ARGUMENTS) { \
    threadgroup float shared[32];                                                                   \
    threadgroup float posteriors[CTC_SHORT_WARPS * CTC_SHORT_LABELS];                               \
    threadgroup uint places[CTC_SHORT_WARPS * (CTC_SHORT_LABELS + CTC_LONG_ROW)];                   \
    ctc_gradient_short_body<float, E>(p, input, tables, kept, stats, losses, upstream, gradient, CTC_HERE, shared, \
                                      posteriors, places);                                          \
  }

kernel void ctc_reduce_f32(constant i64& count [[buffer(0)]], const device float* losses [[buffer(1)]],
                           device float* sum [[buffer(2)]], CTC_POSITION_ARGUMENTS) {
  threadgroup float shared[32];
  ctc_reduce_body<float>(count, losses, sum, CTC_HERE, shared);
}

#define CTC_LATTICE(K, DEPTH)                                                                       \
  kernel void ctc_lattice_f32_##K(constant ctc_sizes& p [[buffer(0)]], const device uint* tables [[buffer(1)]], \
                                  const device ctc_emission<float>* emissions [[buffer(2)]],        \
                                  const device float* records [[buffer(3)]], device uint* kept [[buffer(4)]], \
                                  device float* losses [[buffer(5)]], device float* weighted [[buffer(6)]], \
                                  threadgroup i64* dynamic [[threadgroup(0)]],                       \
                                  CTC_POSITION_ARGUMENTS) {                                         \
    threadgroup float sums[8];                                                                      \
    threadgroup i64 tops[1];                                                                        \
    ctc_lattice_body<float, K, DEPTH>(p, tables, emissions, records, kept, losses, weighted, \
                                      (threadgroup ctc_edge<float>*)dynamic, CTC_HERE, sums, tops);                                        \
  }
#define CTC_LATTICE_SPILL(K, DEPTH)                                                                 \
  kernel void ctc_lattice_f32_##K##_spill(constant ctc_sizes& p [[buffer(0)]], const device uint* tables [[buffer(1)]], \
                                          const device ctc_emission<float>* emissions [[buffer(2)]], \
                                          const device float* records [[buffer(3)]], device uint* kept [[buffer(4)]], \
                                          device float* losses [[buffer(5)]], device float* weighted [[buffer(6)]], \
                                          device ctc_edge<float>* edges [[buffer(7)]],              \
                                          CTC_POSITION_ARGUMENTS) {                                 \
    threadgroup float sums[8];                                                                      \
    threadgroup i64 tops[1];                                                                        \
    ctc_lattice_body<float, K, DEPTH>(p, tables, emissions, records, kept, losses, weighted,        \
                                      edges + i64(block) * 4 * (p.labels + 1), CTC_HERE, sums, tops); \
  }

CTC_WIDEN(u8, uchar)
CTC_WIDEN(u32, uint)
CTC_WIDEN(i16, short)
CTC_WIDEN(i32, int)
CTC_WIDEN(i64, i64)

CTC_ROWS(f32, float)
// The checks of planted faults compile many times, and need no more than f32.
#ifndef CTC_F32_ALONE
CTC_ROWS(f16, half)
CTC_ROWS(bf16, bfloat)
#endif

// Pairs a thread, and frames of a block, of which two are in registers.
CTC_LATTICE(1, 4)
CTC_LATTICE(2, 4)
CTC_LATTICE(4, 2)
CTC_LATTICE_SPILL(4, 2)
// Targets for fewer pairs fit any threadgroup memory there is.
#ifndef CTC_F32_ALONE
CTC_LATTICE_SPILL(1, 4)
CTC_LATTICE_SPILL(2, 4)
#endif
