// What all kernels share, for CUDA and Metal alike: sizes, tables, where a thread stands, sums over a warp. ctc.cu and
// ctc.metal give the kernels their names, platform_cuda.h and platform_metal.h the words.
//
//   widen     integers of any type to i64, for lengths and targets that are on the device   prepare.h
//   prepare   the tables of each target, where the host does not know it                    prepare.h
//   gather    a row of classes a frame: its log-sum-exp (logits), and the emissions of the  rows.h, gather.h
//             classes that the target uses; gather_short where rows are short, gather_weighted where emissions have
//             weights
//   lattice   an item a block: both directions, the loss, and the posterior of each state   number.h, lattice.h
//   reduce    the sum of the losses of a batch                                              lattice.h
//   gradient  a row of classes a frame, written once; gradient_short where rows are short   rows.h, gradient.h
//   best_path an item a block: the frames of its labels (CUDA only)                         best_path.h

#define CTC_LOGITS 1u
#define CTC_TORCH 2u
#define CTC_MEAN 4u
#define CTC_ZERO_INFINITY 8u
#define CTC_KEEP 16u
#define CTC_BATCH_MAJOR 32u
// Each item is a candidate for an utterance, whose number stands in the place of the item's first class: it has the
// emissions and records of that utterance. log P is wanted in two parts, in place of the losses and the weighted losses.
#define CTC_CANDIDATES 64u
// Emissions have weights, so that P is no probability: it may be above 1.
#define CTC_WEIGHTED 128u

// Pairs that a tile shares with the one below, and frames between two meetings of the warps.
#define CTC_HALO 16
// Stands in `needed` for an item whose lengths or labels are wrong.
#define CTC_BAD 0xffffffffu

// The same for all items; src/gpu/params.rs has its twin.
struct ctc_sizes {
  i64 frames, batch, classes;
  // Of the input, in elements.
  i64 x_offset, x_frame, x_item, x_class;
  // Of the upstream gradient, in elements.
  i64 up_offset, up_item;
  // S: labels that the tables have room for.
  i64 labels;
  // Emissions of a frame: the most classes that a target uses, and the blank.
  i64 entries;
  uint blank;
  uint flags;
};

// Sections of the tables, in 32-bit words: N each of lengths, then N · S each.
#define CTC_INPUT_LENGTH(p, n) (n)
#define CTC_TARGET_LENGTH(p, n) ((p).batch + (n))
// How many classes a target uses.
#define CTC_USED(p, n) (2 * (p).batch + (n))
// The frames that a target needs: U + R.
#define CTC_NEEDED(p, n) (3 * (p).batch + (n))
// The classes, in the order of their first appearance.
#define CTC_DISTINCT(p, n) (4 * (p).batch + (n) * (p).labels)
// For each label, the place of its class among those.
#define CTC_PLACE(p, n) (4 * (p).batch + ((p).batch + (n)) * (p).labels)
// The labels' positions by class, and for each class where they end.
#define CTC_POSITION(p, n) (4 * (p).batch + (2 * (p).batch + (n)) * (p).labels)
#define CTC_END(p, n) (4 * (p).batch + (3 * (p).batch + (n)) * (p).labels)

// Where a thread stands.
struct ctc_thread {
  u64 block, blocks;
  uint index, threads, lane, warp, warps;
};

// ---- all lanes of a warp, in an order that is always the same

template <typename T> CTC_FN T ctc_warp_sum(T x) {
  CTC_UNROLL
  for (uint mask = 16u; mask > 0u; mask >>= 1) x = x + ctc_shuffle_xor(x, mask);
  return x;
}
template <typename T> CTC_FN T ctc_warp_max(T x) {
  CTC_UNROLL
  for (uint mask = 16u; mask > 0u; mask >>= 1) x = ctc_max_number(x, ctc_shuffle_xor(x, mask));
  return x;
}
template <typename M> CTC_FN void ctc_warp_sum(CTC_THREAD ctc_pair<M>& a) {
  CTC_UNROLL
  for (uint mask = 16u; mask > 0u; mask >>= 1) {
    M high = ctc_shuffle_xor(a.high, mask);
    M low = ctc_shuffle_xor(a.low, mask);
    ctc_add(a, high, low);
  }
}

// The threads of one row of classes: a warp, or with `wide` all warps of the block, which then have 32
// places in `shared` to meet.
template <typename M>
CTC_FN M ctc_row_sum(M x, bool wide, ctc_thread at, CTC_SHARED M* shared) {
  x = ctc_warp_sum(x);
  if (!wide) return x;
  ctc_barrier();
  if (at.lane == 0u) shared[at.warp] = x;
  ctc_barrier();
  x = shared[0];
  for (uint w = 1u; w < at.warps; w++) x = x + shared[w];
  return x;
}
// Two sums, where a barrier is behind the last use of `shared` already.
template <typename M>
CTC_FN void ctc_row_sums(CTC_THREAD M& x, CTC_THREAD M& y, bool wide, ctc_thread at, CTC_SHARED M* shared) {
  x = ctc_warp_sum(x);
  y = ctc_warp_sum(y);
  if (!wide) return;
  if (at.lane == 0u) {
    shared[2u * at.warp] = x;
    shared[2u * at.warp + 1u] = y;
  }
  ctc_barrier();
  x = shared[0];
  y = shared[1];
  for (uint w = 1u; w < at.warps; w++) {
    x = x + shared[2u * w];
    y = y + shared[2u * w + 1u];
  }
}
template <typename M>
CTC_FN M ctc_row_max(M x, bool wide, ctc_thread at, CTC_SHARED M* shared) {
  x = ctc_warp_max(x);
  if (!wide) return x;
  ctc_barrier();
  if (at.lane == 0u) shared[at.warp] = x;
  ctc_barrier();
  x = shared[0];
  for (uint w = 1u; w < at.warps; w++) x = ctc_max(x, shared[w]);
  return x;
}
