// Rows of classes: a row is a frame of an item. Which row a warp or a block takes, and its entries in vectors.
//
// Rows are bound by bandwidth. From logits, gather reads (T, N, C) once and gradient reads and writes it once, in vectors
// of 16 bytes where rows are long. Measured on an H200, whose copies run at 4.2 TB/s, in rows of 10000 classes and 200
// labels of f32: 3.2 TB/s and 3.4 (with the posteriors that the gradient reads). By the machine code for compute
// capability 9.0 a lane spends 14 instructions on an entry in gather and 10 in gradient (f32; bf16 13 and 11): a GPU of
// 132 multiprocessors at 1.98 GHz issues that for 2.4e12 and 3.4e12 entries a second, and its memory brings 1.1e12 of
// f32. Exponentials are the device's own.
//
// Short rows are bound by issue: a warp takes up to 8 frames of an item, with the item's tables in registers or shared
// memory. By the machine code (estimates), a row of 32 classes takes near 350 instructions in gradient with 120 labels
// and near 190 in gather, and beside that a few hundred for each 8 frames. Short rows have kernels of their own, since
// long rows are the faster the more registers they have.

// Row r of `length` a piece: which piece, and where in it.
CTC_FN i64 ctc_piece(u64 r, i64 length, CTC_THREAD i64& rest) {
  if (((r | (u64)length) >> 32) == 0u) {
    rest = (i64)((uint)r % (uint)length);
    return (i64)((uint)r / (uint)length);
  }
  rest = (i64)r % length;
  return (i64)r / length;
}

// Consecutive frames of an item that a warp takes one after the other, so that data common to the item's rows is
// read once. Few enough that the remaining warps still fill the GPU.
#define CTC_MOST_FRAMES 8
CTC_FN uint ctc_frames_of_a_warp(CTC_CONSTANT const ctc_sizes& p) {
  return (uint)ctc_min(ctc_max((p.frames * p.batch) >> 13, (i64)1), (i64)CTC_MOST_FRAMES);
}
// The number of such runs in an item. Every warp computes it, so in 32 bits.
CTC_FN i64 ctc_runs_of_an_item(CTC_CONSTANT const ctc_sizes& p, uint frames) {
  return (i64)(((uint)p.frames + frames - 1u) / frames);
}

// Rows of fewer classes are taken entry by entry, longer ones in vectors.
#define CTC_LONG_ROW 256

// A vector of entries, read at once from a whole number of vectors, or one by one from anywhere.
template <typename E, bool PACKED> struct ctc_chunk;
template <typename E> struct ctc_chunk<E, true> { uint4 words; };
template <typename E> struct ctc_chunk<E, false> { E entries[ctc_vector<E>::COUNT]; };

template <typename E> CTC_FN void ctc_read(const CTC_DEVICE E* x, i64, CTC_THREAD ctc_chunk<E, true>& to) {
  to.words = *(const CTC_DEVICE uint4*)x;
}
template <typename E> CTC_FN void ctc_read(const CTC_DEVICE E* x, i64 stride, CTC_THREAD ctc_chunk<E, false>& to) {
  CTC_UNROLL
  for (int b = 0; b < ctc_vector<E>::COUNT; b++) to.entries[b] = x[b * stride];
}
// The same for a row that is not read again soon.
template <typename E> CTC_FN void ctc_read_once(const CTC_DEVICE E* x, i64, CTC_THREAD ctc_chunk<E, true>& to) {
  to.words = ctc_load_once((const CTC_DEVICE uint4*)x);
}
template <typename E> CTC_FN void ctc_read_once(const CTC_DEVICE E* x, i64 stride, CTC_THREAD ctc_chunk<E, false>& to) {
  ctc_read(x, stride, to);
}
template <typename M, typename E> CTC_FN void ctc_values(CTC_THREAD const ctc_chunk<E, true>& from, CTC_THREAD M* v) {
  ctc_vector<E>::get(from.words, v);
}
template <typename M, typename E> CTC_FN void ctc_values(CTC_THREAD const ctc_chunk<E, false>& from, CTC_THREAD M* v) {
  CTC_UNROLL
  for (int b = 0; b < ctc_vector<E>::COUNT; b++) v[b] = ctc_widen(from.entries[b]);
}
