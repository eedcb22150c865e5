// What the kernels do, for CUDA and Metal alike. ctc.cu and ctc.metal give them names, and cuda.h and
// metal.h the words.
//
//   widen     integers of any type to i64, for lengths and targets that are on the device
//   prepare   tables of each target, where the host does not know it
//   gather    one row of classes a frame: its log-sum-exp (logits), and the emissions of the classes
//             that the target uses, relative to the largest of them; gather_short where rows are short
//   lattice   one block an item: both directions, the loss, and the posterior of each state
//   reduce    the sum of the losses of a batch
//   gradient  one row of classes a frame, written once; gradient_short where rows are short
//
// What it costs. T frames, K pairs of states a thread.
//
//   gather, gradient: bandwidth. From logits, two reads and one write of (T, N, C) between them, in vectors
//     of 16 bytes where rows are long. Measured on an H200, whose copies run at 4.2 TB/s, in rows of 10000 classes and
//     200 labels of f32: 3.2 TB/s and 3.4. By the machine code for compute capability 9.0 a lane spends 14
//     instructions on an entry in gather and 11 in gradient (f32; bf16 13 and 11): a GPU of 132
//     multiprocessors at 1.98 GHz issues that for 2.4e12 and 3.0e12 entries a second, and its memory brings 1.1e12 of
//     f32. Exponentials are the device's own.
//     Short rows are bound by issue: a warp takes up to 8 frames of an item, with the item's tables in registers or
//     shared memory. By the machine code (estimates), a row of 32 classes takes near 350 instructions in gradient with
//     120 labels and near 190 in gather, and beside that a few hundred for each 8 frames. They have kernels of their
//     own, since long rows are the faster the more registers they have.
//   lattice: latency and issue. T frames, not 2 T, since both directions run at once: half of them in a sweep that
//     keeps states, half in a walk that makes posteriors. A frame is one shuffle, then a chain of 10 dependent
//     operations (skip, maximum, difference, power of two, two multiply-adds, emission). Instructions of a frame, and
//     cycles from a replay of the compiled code for an H200 (estimates):
//       K = 1   sweep 39, 65    walk 54, 82
//       K = 2   sweep 68, 104   walk 93, 140
//       K = 4   sweep 134, 212  walk 180, 284
//     Measured on an H200 (1.98 GHz), sweep and walk together: 95 cycles with K = 1, 162 with K = 2, 325 with three
//     tiles of K = 2; T = 1000 and K = 1 take 68 us. What keeps a frame that short: no branch in it, an address in
//     one instruction, a state in one access, and loads of DEPTH frames together, a block ahead: 8 frames
//     of 65 cycles cover a read from the L2 cache.
//     There is no barrier within a frame. A target that fits one warp (32 K pairs) takes no barrier at all; a longer
//     one is cut into tiles of which each repeats the last HALO pairs of the one below, so that warps meet every HALO
//     frames only.
//   memory: 16 bytes a pair and frame (32 for f64) are kept from the first half, half of them from each
//     direction; posteriors take their place.
//
// On an M-series GPU: 32 lanes, 32 KiB of threadgroup memory, about 208 KiB of registers a core. An item is
// a threadgroup of 2 to 8 SIMD-groups, one for each direction and tile.
//   registers: a lane holds 4 K words of states, and for each frame of two blocks 2 (K + 1) of emissions and 4 K of
//     kept states: about 100 for K = 1 and blocks of 4, 150 for K = 2 and 4, of 32 bits, with addresses. A SIMD-group
//     of 150 is 19 KiB, so a core holds 10: 5 items of one tile. A core needs 24 or so to hide latency by
//     itself; here it is hidden by asking ahead.
//   threadgroup memory: 96 bytes a pair (two directions, old and new): 335 pairs fit 32 KiB, more are kept in
//     device memory. Targets of up to 63 labels take 6 KiB, so registers are the limit.
//   time: a frame has about as many instructions as above, and more where an address takes several. At one in 2
//     cycles for a SIMD-group and about 1.4 GHz, T = 1000 with K = 2 takes near 120 us. The bytes are those above.
// These are figures on paper: no Mac has run it.

#define CTC_LOGITS 1u
#define CTC_TORCH 2u
#define CTC_MEAN 4u
#define CTC_ZERO_INFINITY 8u
#define CTC_KEEP 16u
#define CTC_BATCH_MAJOR 32u

// Pairs that a tile shares with the one below, and frames between two meetings of the warps.
#define CTC_HALO 16
// Stands in `needed` for an item whose lengths or labels are wrong.
#define CTC_BAD 0xffffffffu

// The same for all items; src/gpu/sizes.rs has its twin.
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

// ---- widen and prepare

// Where integers stand: rows · columns of them, to be written one behind the other.
struct ctc_integers {
  i64 rows, columns, offset, row, column, to;
};

template <typename T>
CTC_FN void ctc_widen_body(CTC_CONSTANT const ctc_integers& p, const CTC_DEVICE T* from, CTC_DEVICE i64* to, ctc_thread at) {
  for (i64 i = (i64)(at.block * at.threads + at.index); i < p.rows * p.columns; i += (i64)(at.blocks * at.threads))
    to[p.to + i] = (i64)from[p.offset + i / p.columns * p.row + i % p.columns * p.column];
}

// One block an item. `integers` holds N input lengths, N target lengths and the labels: rows of `row` of
// them, or one behind the other if `row` is 0, `count` in all. Nothing in them is trusted.
CTC_FN void ctc_prepare_body(CTC_CONSTANT const ctc_sizes& p, i64 row, i64 count, const CTC_DEVICE i64* integers,
                             CTC_DEVICE uint* tables, ctc_thread at) {
  i64 n = (i64)at.block;
  const CTC_DEVICE i64* targets = integers + 2 * p.batch;
  i64 frames = integers[n];
  i64 length = integers[p.batch + n];
  bool good = frames >= 0 && frames <= p.frames && length >= 0 && length <= p.labels;
  i64 first = row * n;
  if (row == 0) {
    // All lengths must add up to the labels that are there: else no item knows its own.
    i64 sum = 0;
    for (i64 i = 0; i < p.batch; i++) {
      i64 other = integers[p.batch + i];
      good = good && other >= 0 && other <= count;
      if (i == n) first = sum;
      if (good) sum += other;
    }
    good = good && sum == count;
  }
  CTC_DEVICE uint* distinct = tables + CTC_DISTINCT(p, n);
  CTC_DEVICE uint* place = tables + CTC_PLACE(p, n);
  CTC_DEVICE uint* position = tables + CTC_POSITION(p, n);
  CTC_DEVICE uint* end = tables + CTC_END(p, n);
  if (good) {
    for (i64 i = 0; i < length; i++) {
      i64 label = targets[first + i];
      good = good && label >= 0 && label < p.classes && label != (i64)p.blank;
    }
  }
  uint u = good ? (uint)length : 0u;
  // Where each label's class was seen first. It stands in `end` until that gets its own.
  for (uint i = at.index; i < u; i += at.threads) {
    uint j = 0u;
    while (targets[first + j] != targets[first + i]) j++;
    end[i] = j;
  }
  ctc_barrier();
  uint used = 0u, repeats = 0u;
  for (uint i = 0u; i < u; i++) {
    used += end[i] == i ? 1u : 0u;
    repeats += i > 0u && end[i] == end[i - 1u] ? 1u : 0u;
  }
  for (uint i = at.index; i < u; i += at.threads) {
    uint rank = 0u;
    for (uint j = 0u; j < end[i]; j++) rank += end[j] == j ? 1u : 0u;
    place[i] = rank;
    if (end[i] == i) distinct[rank] = (uint)targets[first + i];
  }
  ctc_barrier();
  for (uint i = at.index; i < u; i += at.threads) {
    uint before = 0u;
    for (uint j = 0u; j < u; j++) before += place[j] < place[i] || (place[j] == place[i] && j < i) ? 1u : 0u;
    position[before] = i;
  }
  for (uint k = at.index; k < used; k += at.threads) {
    uint upto = 0u;
    for (uint j = 0u; j < u; j++) upto += place[j] <= k ? 1u : 0u;
    end[k] = upto;
  }
  if (at.index == 0u) {
    tables[CTC_INPUT_LENGTH(p, n)] = good ? (uint)frames : (uint)p.frames;
    tables[CTC_TARGET_LENGTH(p, n)] = u;
    tables[CTC_USED(p, n)] = used;
    tables[CTC_NEEDED(p, n)] = good ? u + repeats : CTC_BAD;
  }
}

// ---- rows

// Row r of `length` a piece: which piece, and where in it.
CTC_FN i64 ctc_piece(u64 r, i64 length, CTC_THREAD i64& rest) {
  if (((r | (u64)length) >> 32) == 0u) {
    rest = (i64)((uint)r % (uint)length);
    return (i64)((uint)r / (uint)length);
  }
  rest = (i64)r % length;
  return (i64)r / length;
}

// Consecutive frames of an item that a warp takes one after the other, so that what the item's rows have in common is
// read once: no more than leave a GPU full.
#define CTC_MOST_FRAMES 8
CTC_FN uint ctc_frames_of_a_warp(CTC_CONSTANT const ctc_sizes& p) {
  return (uint)ctc_min(ctc_max((p.frames * p.batch) >> 13, (i64)1), (i64)CTC_MOST_FRAMES);
}
// How many times that is in an item. All warps ask, so in 32 bits.
CTC_FN i64 ctc_runs_of_an_item(CTC_CONSTANT const ctc_sizes& p, uint frames) {
  return (i64)(((uint)p.frames + frames - 1u) / frames);
}

// ---- gather

// Rows of fewer classes are taken entry by entry, longer ones in vectors.
#define CTC_LONG_ROW 256

// A vector of entries, read at once from a whole number of vectors, or one by one from anywhere.
template <typename E, bool PACKED> struct ctc_chunk;
template <typename E> struct ctc_chunk<E, true> { uint4 words; };
template <typename E> struct ctc_chunk<E, false> { E entries[ctc_vector<E>::COUNT]; };

template <typename E> CTC_FN void ctc_read(const CTC_DEVICE E* x, i64, CTC_THREAD ctc_chunk<E, true>& to) {
  to.words = *(const CTC_DEVICE uint4*)x;
}
// The same for a row that is not read again before much else was.
template <typename E> CTC_FN void ctc_read_once(const CTC_DEVICE E* x, i64, CTC_THREAD ctc_chunk<E, true>& to) {
  to.words = ctc_load_once((const CTC_DEVICE uint4*)x);
}
template <typename E> CTC_FN void ctc_read_once(const CTC_DEVICE E* x, i64 stride, CTC_THREAD ctc_chunk<E, false>& to) {
  CTC_UNROLL
  for (int b = 0; b < ctc_vector<E>::COUNT; b++) to.entries[b] = x[b * stride];
}
template <typename E> CTC_FN void ctc_read(const CTC_DEVICE E* x, i64 stride, CTC_THREAD ctc_chunk<E, false>& to) {
  CTC_UNROLL
  for (int b = 0; b < ctc_vector<E>::COUNT; b++) to.entries[b] = x[b * stride];
}
template <typename M, typename E> CTC_FN void ctc_values(CTC_THREAD const ctc_chunk<E, true>& from, CTC_THREAD M* v) {
  ctc_vector<E>::get(from.words, v);
}
template <typename M, typename E> CTC_FN void ctc_values(CTC_THREAD const ctc_chunk<E, false>& from, CTC_THREAD M* v) {
  CTC_UNROLL
  for (int b = 0; b < ctc_vector<E>::COUNT; b++) v[b] = ctc_widen(from.entries[b]);
}

// The sum of exp(x - largest) over entries, the largest of them counted apart: a small rest is not lost beside a 1.
template <typename M> struct ctc_row_stats { M largest, ones, others; };

// The same sums relative to a largest that is not below theirs.
template <typename M> CTC_FN void ctc_rebase(CTC_THREAD ctc_row_stats<M>& s, M largest) {
  bool grown = s.largest != largest;
  M factor = ctc_real<M>::exp_fast(s.largest - (largest > -ctc_real<M>::infinity() ? largest : M(0)));
  s.others = grown ? (s.ones + s.others) * factor : s.others;
  s.ones = grown ? M(0) : s.ones;
  s.largest = largest;
}

// Adds some entries. Once the largest is NaN it stays so.
template <typename M, int COUNT> CTC_FN void ctc_take(CTC_THREAD ctc_row_stats<M>& s, CTC_THREAD const M* v) {
  M top = s.largest;
  CTC_UNROLL
  for (int b = 0; b < COUNT; b++) top = ctc_max_or_nan(v[b], top);
  ctc_rebase(s, top);
  // Where all is -inf so far, all counts 0.
  M reference = top > -ctc_real<M>::infinity() ? top : M(0);
  CTC_UNROLL
  for (int b = 0; b < COUNT; b++) {
    M e = ctc_real<M>::exp_fast(v[b] - reference);
    if (v[b] == reference) s.ones += M(1);
    else s.others += e;
  }
}

// The vectors of a row that are a lane's, two at a time, the next two asked for before these are used. Which they
// are depends on the row's length alone, not on where it stands in memory: a sum is the same in any batch.
template <typename M, typename E, bool PACKED>
CTC_FN void ctc_take_vectors(const CTC_DEVICE E* x, i64 stride, uint count, uint lane, uint lanes,
                             CTC_THREAD ctc_row_stats<M>& s) {
  const int N = ctc_vector<E>::COUNT;
  i64 step = (i64)lanes * N * stride;
  x += (i64)lane * N * stride;
  ctc_chunk<E, PACKED> a, b;
  M v[2 * N];
  uint i = lane;
  if (i + lanes < count) {
    ctc_read_once(x, stride, a);
    ctc_read_once(x + step, stride, b);
  }
  while (i + lanes < count) {
    ctc_values(a, v);
    ctc_values(b, v + N);
    i += 2u * lanes;
    x += 2 * step;
    if (i + lanes < count) {
      ctc_read_once(x, stride, a);
      ctc_read_once(x + step, stride, b);
    }
    ctc_take<M, 2 * N>(s, v);
  }
  if (i < count) {
    ctc_read_once(x, stride, a);
    ctc_values(a, v);
    ctc_take<M, N>(s, v);
  }
}

// The entries from `from` to `to`, of which each lane asks for COUNT at a time.
template <typename M, typename E, int COUNT>
CTC_FN void ctc_take_entries(const CTC_DEVICE E* x, i64 stride, uint from, uint to, uint lane, uint lanes,
                             CTC_THREAD ctc_row_stats<M>& s) {
  for (uint c = from + lane; c < to; c += COUNT * lanes) {
    M v[COUNT];
    CTC_UNROLL
    for (uint j = 0u; j < COUNT; j++)
      v[j] = j == 0u || c + j * lanes < to ? ctc_widen(x[(c + j * lanes) * stride]) : -ctc_real<M>::infinity();
    ctc_take<M, COUNT>(s, v);
  }
}

// The sums of a row of up to 32 COUNT classes, by a warp: the largest of the whole row first.
template <typename M, typename E, int COUNT>
CTC_FN ctc_row_stats<M> ctc_short_log_sum_exp(const CTC_DEVICE E* x, i64 stride, uint classes, uint lane) {
  M lowest = -ctc_real<M>::infinity(), top = lowest;
  M v[COUNT];
  CTC_UNROLL
  for (uint j = 0u; j < COUNT; j++) {
    uint c = lane + 32u * j;
    v[j] = c < classes ? ctc_widen(x[c * stride]) : lowest;
    top = ctc_max_or_nan(v[j], top);
  }
  ctc_row_stats<M> s;
  s.largest = ctc_warp_max(top);
  M reference = s.largest > lowest ? s.largest : M(0);
  s.ones = M(0);
  s.others = top != top ? top : M(0);
  CTC_UNROLL
  for (int j = 0; j < COUNT; j++) {
    M e = ctc_real<M>::exp_fast(v[j] - reference);
    if (v[j] == reference) s.ones += M(1);
    else s.others += e;
  }
  s.ones = ctc_warp_sum(s.ones);
  s.others = ctc_warp_sum(s.others);
  return s;
}

// For a row that starts `phase` entries behind a whole number of vectors. With `wide`, the first warp alone gets what
// it asked for.
template <typename M, typename E>
CTC_FN ctc_row_stats<M> ctc_log_sum_exp(CTC_CONSTANT const ctc_sizes& p, const CTC_DEVICE E* x, uint phase, uint lane,
                                        uint lanes, bool wide, ctc_thread at, CTC_SHARED M* shared) {
  M lowest = -ctc_real<M>::infinity();
  uint classes = (uint)p.classes;
  ctc_row_stats<M> s;
  s.largest = lowest;
  s.ones = s.others = M(0);
  uint vectors = classes < CTC_LONG_ROW ? 0u : classes / ctc_vector<E>::COUNT;
  if (phase == 0u && p.x_class == 1) ctc_take_vectors<M, E, true>(x, 1, vectors, lane, lanes, s);
  else ctc_take_vectors<M, E, false>(x, p.x_class, vectors, lane, lanes, s);
  uint rest = vectors * (uint)ctc_vector<E>::COUNT;
  if (classes - rest <= lanes) ctc_take_entries<M, E, 1>(x, p.x_class, rest, classes, lane, lanes, s);
  else ctc_take_entries<M, E, 4>(x, p.x_class, rest, classes, lane, lanes, s);
  if (s.largest != s.largest) s.others = s.largest;
  ctc_rebase(s, ctc_warp_max(s.largest));
  s.ones = ctc_warp_sum(s.ones);
  s.others = ctc_warp_sum(s.others);
  if (!wide) return s;
  ctc_barrier();
  if (at.lane == 0u) {
    shared[3u * at.warp] = s.largest;
    shared[3u * at.warp + 1u] = s.ones;
    shared[3u * at.warp + 2u] = s.others;
  }
  ctc_barrier();
  if (at.warp == 0u) {
    s.largest = at.lane < at.warps ? shared[3u * at.lane] : lowest;
    s.ones = at.lane < at.warps ? shared[3u * at.lane + 1u] : M(0);
    s.others = at.lane < at.warps ? shared[3u * at.lane + 2u] : M(0);
    ctc_rebase(s, ctc_warp_max(s.largest));
    s.ones = ctc_warp_sum(s.ones);
    s.others = ctc_warp_sum(s.others);
  }
  return s;
}

// The classes k + j · lanes of those that a target uses, the blank behind them.
template <int COUNT>
CTC_FN void ctc_used_classes(CTC_CONSTANT const ctc_sizes& p, const CTC_DEVICE uint* distinct, uint used, uint k,
                             uint lanes, CTC_THREAD uint* c) {
  CTC_UNROLL
  for (uint j = 0u; j < COUNT; j++) c[j] = k + j * lanes < used ? distinct[k + j * lanes] : p.blank;
}

// Their entries; -inf for those that are not.
template <typename M, typename E, int COUNT>
CTC_FN void ctc_used_entries(const CTC_DEVICE E* x, i64 stride, CTC_THREAD const uint* c, uint used, uint k, uint lanes,
                             CTC_THREAD M* v) {
  CTC_UNROLL
  for (uint j = 0u; j < COUNT; j++)
    v[j] = k + j * lanes <= used ? ctc_widen(x[c[j] * stride]) : -ctc_real<M>::infinity();
}

// The emissions of `count` frames one after the other, of which each lane asks for COUNT at a time: with ONCE that is
// all of them. For the frame that has the number of the lane, sets the largest entry, and how far the lowest is below
// it: +inf if one is NaN or +inf.
template <typename M, typename E, int COUNT, bool ONCE>
CTC_FN void ctc_emit(CTC_CONSTANT const ctc_sizes& p, const CTC_DEVICE E* x, const CTC_DEVICE uint* distinct, uint used,
                     CTC_DEVICE ctc_emission<M>* y, uint count, CTC_THREAD M& its_largest, CTC_THREAD M& its_peak,
                     uint lane, uint lanes, bool wide, ctc_thread at, CTC_SHARED M* shared) {
  M lowest = -ctc_real<M>::infinity();
  uint c[COUNT];
  M v[COUNT];
  ctc_used_classes<COUNT>(p, distinct, used, lane, lanes, c);
  for (uint f = 0u; f < count; f++) {
    // NaN and +inf are set aside: a comparison with them says nothing.
    M poison = M(0), largest = lowest;
    for (uint k = lane; k <= used; k += COUNT * lanes) {
      if (!ONCE && used >= COUNT * lanes) ctc_used_classes<COUNT>(p, distinct, used, k, lanes, c);
      ctc_used_entries<M, E, COUNT>(x, p.x_class, c, used, k, lanes, v);
      CTC_UNROLL
      for (int j = 0; j < COUNT; j++) {
        if (!(v[j] < ctc_real<M>::infinity())) poison = ctc_real<M>::infinity();
        largest = ctc_max_number(v[j], largest);
      }
      if (ONCE) break;
    }
    largest = ctc_row_max(largest, wide, at, shared);
    if (!(largest > lowest && largest < ctc_real<M>::infinity())) largest = M(0);
    M peak = poison;
    for (uint k = lane; k <= used; k += COUNT * lanes) {
      // Where they were one batch, they are still here.
      if (!ONCE && used >= COUNT * lanes) {
        ctc_used_classes<COUNT>(p, distinct, used, k, lanes, c);
        ctc_used_entries<M, E, COUNT>(x, p.x_class, c, used, k, lanes, v);
      }
      CTC_UNROLL
      for (uint j = 0u; j < COUNT; j++) {
        if (k + j * lanes <= used) {
          ctc_emission<M> split = ctc_split(v[j] < largest ? v[j] : v[j] == largest ? v[j] : lowest, largest);
          y[k + j * lanes].m = split.m;
          y[k + j * lanes].e = split.e;
          if (split.e != CTC_NO_EMISSION) peak = ctc_max_number(largest - v[j], peak);
        }
      }
      if (ONCE) break;
    }
    peak = ctc_row_max(peak, wide, at, shared);
    its_largest = lane == f ? largest : its_largest;
    its_peak = lane == f ? peak : its_peak;
    x += p.x_frame;
    y += p.entries;
  }
}

// What a row leaves beside its emissions.
template <typename M>
CTC_FN void ctc_leave(bool logits, M largest, M peak, CTC_THREAD const ctc_row_stats<M>& row, CTC_DEVICE M* record,
                      CTC_DEVICE M* stat) {
  ctc_pair<M> scale;
  scale.high = largest;
  scale.low = M(0);
  if (logits) {
    M total = row.ones + row.others;
    if (!(total > M(0) && total < ctc_real<M>::infinity() && row.largest < ctc_real<M>::infinity()))
      peak = ctc_real<M>::infinity();
    scale.high = ctc_difference(scale.high, row.largest, scale.low);
    ctc_add(scale, -ctc_log_sum(row.ones, row.others), M(0));
    stat[0] = row.largest;
    stat[1] = total;
  }
  record[0] = scale.high;
  record[1] = scale.low;
  record[2] = peak;
}

// Rows of up to 128 classes, or of which only the emissions are wanted: a warp takes some frames of an item one after
// the other, and the last steps of all of them together, a lane each.
template <typename M, typename E>
CTC_FN void ctc_gather_short_body(CTC_CONSTANT const ctc_sizes& p, const CTC_DEVICE E* input, const CTC_DEVICE uint* tables,
                              CTC_DEVICE ctc_emission<M>* emissions, CTC_DEVICE M* records, CTC_DEVICE M* stats,
                              ctc_thread at, CTC_SHARED M* shared) {
  uint classes = (uint)p.classes;
  bool logits = (p.flags & CTC_LOGITS) != 0u;
  i64 run = (i64)ctc_frames_of_a_warp(p);
  i64 runs = ctc_runs_of_an_item(p, (uint)run);
  for (u64 u = at.block * at.warps + at.warp; u < (u64)(runs * p.batch); u += at.blocks * at.warps) {
    i64 t;
    i64 n = ctc_piece(u, runs, t);
    t *= run;
    i64 frames = (i64)tables[CTC_INPUT_LENGTH(p, n)];
    if (t >= frames) continue;
    uint count = (uint)ctc_min(frames - t, run);
    i64 r = n * p.frames + t;
    const CTC_DEVICE E* x = input + (p.x_offset + t * p.x_frame + n * p.x_item);
    const CTC_DEVICE uint* distinct = tables + CTC_DISTINCT(p, n);
    uint used = tables[CTC_USED(p, n)];
    CTC_DEVICE ctc_emission<M>* y = emissions + r * p.entries;
    M largest = M(0), peak = M(0);
    if (used < 32u) ctc_emit<M, E, 1, true>(p, x, distinct, used, y, count, largest, peak, at.lane, 32u, false, at, shared);
    else if (used < 128u)
      ctc_emit<M, E, 4, true>(p, x, distinct, used, y, count, largest, peak, at.lane, 32u, false, at, shared);
    else ctc_emit<M, E, 8, false>(p, x, distinct, used, y, count, largest, peak, at.lane, 32u, false, at, shared);
    ctc_row_stats<M> row;
    row.largest = row.ones = row.others = M(0);
    for (uint f = 0u; logits && f < count; f++) {
      ctc_row_stats<M> s = classes <= 32u ? ctc_short_log_sum_exp<M, E, 1>(x, p.x_class, classes, at.lane)
                                          : ctc_short_log_sum_exp<M, E, 4>(x, p.x_class, classes, at.lane);
      row.largest = at.lane == f ? s.largest : row.largest;
      row.ones = at.lane == f ? s.ones : row.ones;
      row.others = at.lane == f ? s.others : row.others;
      x += p.x_frame;
    }
    r += at.lane;
    if (at.lane < count) ctc_leave<M>(logits, largest, peak, row, records + 3 * r, stats + (logits ? 2 * r : 0));
  }
}

// A row is a frame of an item: a warp's, or with `wide` a block's. This and ctc_gather_short_body do the same.
//
// Writes for each row the emissions, and three numbers: the logarithm of what they were divided by, in two
// parts, and how far the lowest of them is below the largest, or +inf where the row holds a NaN or +inf.
// For logits also the largest of the row and its sum of exponentials.
template <typename M, typename E>
CTC_FN void ctc_gather_body(CTC_CONSTANT const ctc_sizes& p, const CTC_DEVICE E* input, const CTC_DEVICE uint* tables,
                            CTC_DEVICE ctc_emission<M>* emissions, CTC_DEVICE M* records, CTC_DEVICE M* stats,
                            bool wide, ctc_thread at, CTC_SHARED M* shared) {
  bool logits = (p.flags & CTC_LOGITS) != 0u;
  uint lane = wide ? at.index : at.lane;
  uint lanes = wide ? at.threads : 32u;
  u64 per_block = wide ? 1u : at.warps;
  u64 rows = (u64)(p.frames * p.batch);
  for (u64 r = at.block * per_block + (wide ? 0u : at.warp); r < rows; r += at.blocks * per_block) {
    // Frames of an item one behind the other, as the lattice reads them.
    i64 t;
    i64 n = ctc_piece(r, p.frames, t);
    if (t >= (i64)tables[CTC_INPUT_LENGTH(p, n)]) continue;
    i64 offset = p.x_offset + t * p.x_frame + n * p.x_item;
    const CTC_DEVICE E* x = input + offset;
    const CTC_DEVICE uint* distinct = tables + CTC_DISTINCT(p, n);
    uint used = tables[CTC_USED(p, n)];
    CTC_DEVICE ctc_emission<M>* y = emissions + (i64)r * p.entries;
    M largest = M(0), peak = M(0);
    if (used < lanes) ctc_emit<M, E, 1, true>(p, x, distinct, used, y, 1u, largest, peak, lane, lanes, wide, at, shared);
    else ctc_emit<M, E, 4, false>(p, x, distinct, used, y, 1u, largest, peak, lane, lanes, wide, at, shared);
    ctc_row_stats<M> row;
    row.largest = row.ones = row.others = M(0);
    if (logits) row = ctc_log_sum_exp<M>(p, x, ctc_phase(input, offset), lane, lanes, wide, at, shared);
    if (lane == 0u) ctc_leave<M>(logits, largest, peak, row, records + 3 * r, stats + (logits ? 2 * r : 0));
  }
}

// ---- lattice

// The states of a pair between two rounds of frames.
template <typename M> struct ctc_edge { i64 blank_e, label_e; M blank_m, label_m; };

// A state in memory, or the two posteriors of a pair: one instruction moves both words.
template <typename M> struct alignas(2 * sizeof(M)) ctc_words { typename ctc_real<M>::word low, high; };

// One item, as a block sees it. Direction 0 runs from the first frame on; direction 1 is the same recursion
// on the item reversed: last frame first, last label first.
template <typename M> struct ctc_item {
  const CTC_DEVICE ctc_emission<M>* emissions;
  // A frame has `width` places for blanks, then as many for labels, in the order of the direction that kept them.
  // A walk puts the posteriors of its pairs, low the blank's and high the label's, where their blanks stood.
  CTC_DEVICE ctc_words<M>* kept;
  const CTC_DEVICE uint* place;
  i64 entries, width;
  int frames, labels, middle;
  uint used;
};

// Where label i of a direction stands in the target.
template <typename M> CTC_FN int ctc_at(CTC_THREAD const ctc_item<M>& it, uint direction, int i) {
  return direction == 0u ? i : it.labels - 1 - i;
}

template <typename M, typename X> CTC_FN i64 ctc_edge_exponent(X e) {
  return e <= ctc_zero_below(X(0)) ? ctc_zero((i64)0) : (i64)e;
}

// What a lane holds of its tile: K pairs, and the label below them.
template <typename M, typename X, int K> struct ctc_tile {
  ctc_number<M, X> blank[K], label[K], below;
  // Added to the exponent of the label below a pair: on the way to its label, and on the way to the first blank.
  X skip[K], edge;
  // The states that are to be written: those that no other tile has, if any are.
  bool own_blank[K], own_label[K];
};

// Where a lane reads and writes: addresses for step 0 of its direction, and the bytes from one step to the next. One
// multiply-add makes an address.
template <typename M, int K> struct ctc_streams {
  const CTC_DEVICE char* blank;
  const CTC_DEVICE char* label[K];
  CTC_DEVICE char* kept_blank;
  CTC_DEVICE char* kept_label;
  int emission_step, kept_step;
};

// What DEPTH steps read: emissions, and for a walk the states that the other direction kept.
template <typename M, int K, int DEPTH, bool WALK> struct ctc_ahead {
  ctc_emission<M> blank[DEPTH], label[DEPTH][K];
  ctc_words<M> kept_blank[WALK ? DEPTH : 1][K], kept_label[WALK ? DEPTH : 1][K];
};

// The address `step` steps on.
CTC_FN const CTC_DEVICE char* ctc_on(const CTC_DEVICE char* from, int step, int bytes) { return from + ctc_wide(step, bytes); }
CTC_FN CTC_DEVICE char* ctc_on(CTC_DEVICE char* from, int step, int bytes) { return from + ctc_wide(step, bytes); }

// Asks for what the steps from `step` on will read. Behind the last there is nothing: it is read once more.
template <typename M, typename X, int K, int DEPTH, bool WALK>
CTC_FN void ctc_fetch(CTC_THREAD const ctc_streams<M, K>& at, CTC_THREAD const ctc_tile<M, X, K>& tile, int step, int last,
                      CTC_THREAD ctc_ahead<M, K, DEPTH, WALK>& ahead) {
  CTC_UNROLL
  for (int d = 0; d < DEPTH; d++) {
    int s = ctc_min(step + d, last - 1);
    const CTC_DEVICE ctc_emission<M>* y = (const CTC_DEVICE ctc_emission<M>*)ctc_on(at.blank, s, at.emission_step);
    ahead.blank[d].m = y->m;
    ahead.blank[d].e = y->e;
    CTC_UNROLL
    for (int j = 0; j < K; j++) {
      y = (const CTC_DEVICE ctc_emission<M>*)ctc_on(at.label[j], s, at.emission_step);
      ahead.label[d][j].m = y->m;
      ahead.label[d][j].e = y->e;
    }
    if (WALK) {
      const CTC_DEVICE ctc_words<M>* blank = (const CTC_DEVICE ctc_words<M>*)ctc_on(at.kept_blank, s, at.kept_step);
      const CTC_DEVICE ctc_words<M>* label = (const CTC_DEVICE ctc_words<M>*)ctc_on(at.kept_label, s, at.kept_step);
      CTC_UNROLL
      for (int j = 0; j < K; j++) {
        if (tile.own_blank[j]) {
          ahead.kept_blank[d][j].low = blank[-j].low;
          ahead.kept_blank[d][j].high = blank[-j].high;
        }
        if (tile.own_label[j]) {
          ahead.kept_label[d][j].low = label[-j].low;
          ahead.kept_label[d][j].high = label[-j].high;
        }
      }
    }
  }
}

// 0, known when a block of steps has arrived. A GPU counts the loads that are under way, not which they are, so waiting
// for one block would be waiting for the next too, had that been asked for before.
template <typename M, int K, int DEPTH, bool WALK>
CTC_FN int ctc_arrived(CTC_THREAD const ctc_ahead<M, K, DEPTH, WALK>& ahead) {
  return ctc_max(ahead.blank[DEPTH - 1].e, 1 << 30) - (1 << 30);
}

// The label below a lane's pairs, for the next step.
template <typename M, typename X, int K> CTC_FN void ctc_pass_up(CTC_THREAD ctc_tile<M, X, K>& tile) {
  tile.below.m = ctc_shuffle_up(tile.label[K - 1].m);
  tile.below.e = ctc_shuffle_up(tile.label[K - 1].e);
}

// Mantissas back to [1, 2). In one step one grows by less than 2^2.1 and shrinks by at most 2^0.51: after two blocks, of
// up to 8 steps, it is still a normal number.
template <typename M, typename X, int K> CTC_FN void ctc_normalise(CTC_THREAD ctc_tile<M, X, K>& tile) {
  CTC_UNROLL
  for (int j = 0; j < K; j++) {
    tile.blank[j] = ctc_normal(tile.blank[j]);
    tile.label[j] = ctc_normal(tile.label[j]);
  }
}

// Step d of a block that starts at `step`. It has no branch.
template <typename M, typename X, int K, int DEPTH, bool WALK>
CTC_FN void ctc_step(CTC_THREAD const ctc_streams<M, K>& at, CTC_THREAD ctc_tile<M, X, K>& tile, X top, int step, int d,
                     CTC_THREAD const ctc_ahead<M, K, DEPTH, WALK>& ahead) {
  typedef ctc_number<M, X> number;
  CTC_DEVICE ctc_words<M>* row = (CTC_DEVICE ctc_words<M>*)ctc_on(at.kept_blank, step + d, at.kept_step);
  CTC_DEVICE ctc_words<M>* row_of_labels = (CTC_DEVICE ctc_words<M>*)ctc_on(at.kept_label, step + d, at.kept_step);
  number factor = ctc_factor(ahead.blank[d].m, ahead.blank[d].e, X(0));
  number below = tile.below;
  CTC_UNROLL
  for (int j = K - 1; j >= 0; j--) {
    number previous = below, to_blank = ctc_make<M, X>(below.m, below.e + tile.edge);
    if (j > 0) previous = to_blank = tile.label[j - 1];
    number into_blank = ctc_sum2(tile.blank[j], to_blank);
    number into_label = ctc_sum3(tile.label[j], tile.blank[j], ctc_make<M, X>(previous.m, previous.e + tile.skip[j]));
    tile.label[j] = ctc_times(into_label, ctc_factor(ahead.label[d][j].m, ahead.label[d][j].e, X(0)));
    // As early as may be: the lane above waits for it.
    if (j == K - 1) ctc_pass_up(tile);
    tile.blank[j] = ctc_times(into_blank, factor);
    typename ctc_real<M>::word low, high;
    if (WALK) {
      number other = ctc_unpack(ahead.kept_blank[d][j].low, ahead.kept_blank[d][j].high, X(0));
      low = ctc_real<M>::to_bits(ctc_product<M, X>(other, into_blank, top));
      other = ctc_unpack(ahead.kept_label[d][j].low, ahead.kept_label[d][j].high, X(0));
      high = ctc_real<M>::to_bits(ctc_product<M, X>(other, into_label, top));
      ctc_store_if(tile.own_blank[j], &row[-j].low, low, high);
    } else {
      ctc_pack(tile.blank[j], low, high);
      ctc_store_if(tile.own_blank[j], &row[j].low, low, high);
      ctc_pack(tile.label[j], low, high);
      ctc_store_if(tile.own_label[j], &row_of_labels[j].low, low, high);
    }
  }
}

// All steps of a block.
template <typename M, typename X, int K, int DEPTH, bool WALK>
CTC_FN void ctc_steps(CTC_THREAD const ctc_streams<M, K>& at, CTC_THREAD ctc_tile<M, X, K>& tile, X top, int step,
                      CTC_THREAD const ctc_ahead<M, K, DEPTH, WALK>& ahead) {
  CTC_UNROLL
  for (int d = 0; d < DEPTH; d++) ctc_step<M, X, K, DEPTH, WALK>(at, tile, top, step, d, ahead);
}

// Steps first to last of a direction. A walk forms posteriors from what the other direction kept; a sweep
// keeps states if `keep`. `rounds` is the same for all threads of the block. The states come and go through
// `edges`, of which those of `parity` are current; returns the new parity.
//
// What decides on a way is the same for the whole block, and seen to be: then no shuffle has to make sure that its
// warp is together, and the steps of a block of them are scheduled as one.
//
// A warp with one tile keeps it from round to round, and takes from `edges` only what it shares with the tile below.
template <typename M, typename X, int K, int DEPTH, bool WALK, typename Edges>
CTC_FN uint ctc_advance(CTC_THREAD const ctc_item<M>& it, Edges edges, uint parity, uint direction, int first, int last,
                        int rounds, int span, bool keep, X top, uint warp, uint warps, uint lane) {
  int stride = 32 * K - CTC_HALO;
  int tiles = it.labels < 32 * K ? 1 : 1 + (it.labels - 32 * K) / stride + 1;
  int passes = (tiles + (int)warps - 1) / (int)warps;
  // Steps that both directions have: one may have one more.
  int common = it.frames / 2;
  X zero = ctc_zero(X(0));
  ctc_tile<M, X, K> tile;
  ctc_streams<M, K> at;
  // One block of steps is worked on while the other is on its way.
  ctc_ahead<M, K, DEPTH, WALK> even = {}, odd = {};
  for (int round = 0; round < rounds; round++) {
    int blocks = ctc_max(ctc_min(common - round * span, span), 0) / DEPTH;
    int to = ctc_min(first + (round + 1) * span, last);
    Edges source = edges + (i64)(2u * parity + direction) * it.width;
    Edges target = edges + (i64)(2u * (parity ^ 1u) + direction) * it.width;
    for (int pass = 0; pass < passes; pass++) {
      int step = ctc_min(first + round * span, last);
      int index = pass * (int)warps + (int)warp;
      int base = index * stride + (int)lane * K;
      int owned = index > 0 ? index * stride + CTC_HALO : 0;
      bool start = round == 0 || passes > 1;
      if (start) {
        i64 t = direction == 0u ? 0 : it.frames - 1;
        const CTC_DEVICE ctc_emission<M>* emissions = it.emissions + t * it.entries;
        at.blank = (const CTC_DEVICE char*)(emissions + it.used);
        at.emission_step = (int)(direction == 0u ? it.entries : -it.entries) * (int)sizeof(ctc_emission<M>);
        CTC_UNROLL
        for (int j = 0; j < K; j++) {
          int i = base + j;
          tile.own_blank[j] = (WALK || keep) && i >= owned && i <= it.labels;
          tile.own_label[j] = tile.own_blank[j] && i < it.labels;
          // Behind the last label there are no states; what flows there never flows back.
          uint here = i < it.labels ? it.place[ctc_at(it, direction, i)] : it.used;
          uint before = i > 0 && i < it.labels ? it.place[ctc_at(it, direction, i - 1)] : here;
          tile.skip[j] = here != before ? X(0) : zero;
          at.label[j] = (const CTC_DEVICE char*)(emissions + here);
        }
        tile.edge = lane == 0u ? zero : X(0);
        if (lane == 0u) tile.skip[0] = zero;
        // The other direction's pair i has the blank of this one's pair U - i, and the label of pair U - 1 - i.
        CTC_DEVICE ctc_words<M>* row = it.kept + 2 * t * it.width;
        at.kept_blank = (CTC_DEVICE char*)(row + (WALK ? it.labels - base : base));
        at.kept_label = (CTC_DEVICE char*)(row + it.width + (WALK ? it.labels - 1 - base : base));
        at.kept_step = (int)(direction == 0u ? it.width : -it.width) * 2 * (int)sizeof(ctc_words<M>);
      }
      CTC_UNROLL
      for (int j = 0; j < K; j++) {
        int i = base + j;
        if (start) tile.blank[j] = tile.label[j] = ctc_none<M, X>();
        if (i <= it.labels && (start || i < owned)) {
          tile.blank[j] = ctc_make<M, X>(source[i].blank_m, (X)ctc_max(source[i].blank_e, (i64)zero));
          tile.label[j] = ctc_make<M, X>(source[i].label_m, (X)ctc_max(source[i].label_e, (i64)zero));
        }
      }
      ctc_pass_up(tile);
      if (start && step < last) ctc_fetch<M, X, K, DEPTH, WALK>(at, tile, step, last, even);
      for (int left = blocks; left > 0; left -= 2) {
        ctc_fetch<M, X, K, DEPTH, WALK>(at, tile, step + DEPTH + ctc_arrived(even), last, odd);
        ctc_steps<M, X, K, DEPTH, WALK>(at, tile, top, step, even);
        step += DEPTH;
        if (left == 1) {
          // Again, and now near: a copy of `odd` would cost moves in each turn.
          ctc_fetch<M, X, K, DEPTH, WALK>(at, tile, step, last, even);
          break;
        }
        ctc_fetch<M, X, K, DEPTH, WALK>(at, tile, step + DEPTH + ctc_arrived(odd), last, even);
        ctc_steps<M, X, K, DEPTH, WALK>(at, tile, top, step, odd);
        step += DEPTH;
        ctc_normalise(tile);
      }
      // What is left, up to a block.
      CTC_UNROLL
      for (int d = 0; d < DEPTH; d++) {
        if (step + d < to) ctc_step<M, X, K, DEPTH, WALK>(at, tile, top, step, d, even);
      }
      ctc_normalise(tile);
      // All that the tile owns, or what the tile above shares with it.
      int shared = passes == 1 && round < rounds - 1 ? (index + 1) * stride : owned;
      CTC_UNROLL
      for (int j = 0; j < K; j++) {
        int i = base + j;
        if (i >= shared && i <= it.labels) {
          if (i == it.labels) tile.label[j] = ctc_none<M, X>();
          target[i].blank_m = tile.blank[j].m;
          target[i].blank_e = ctc_edge_exponent<M, X>(tile.blank[j].e);
          target[i].label_m = tile.label[j].m;
          target[i].label_e = ctc_edge_exponent<M, X>(tile.label[j].e);
        }
      }
    }
    parity ^= 1u;
    ctc_barrier();
  }
  return parity;
}

// P as mantissa and exponent: the states that direction 0 holds before the middle, times what flows there
// from direction 1. For one warp; the order of the sum is that of the labels alone.
template <typename M, typename Edges>
CTC_FN ctc_number<M, i64> ctc_meet(CTC_THREAD const ctc_item<M>& it, Edges edges, uint parity, uint lane) {
  typedef ctc_number<M, i64> number;
  Edges early = edges + (i64)(2u * parity) * it.width;
  Edges late = edges + (i64)(2u * parity + 1u) * it.width;
  i64 top = 2 * ctc_zero((i64)0);
  M sum = M(0);
  for (int pass = 0; pass < 2; pass++) {
    for (int i = (int)lane; i <= it.labels; i += 32) {
      number below = ctc_none<M, i64>();
      i64 skip = ctc_zero((i64)0);
      if (i > 0) {
        below = ctc_make<M, i64>(late[i - 1].label_m, late[i - 1].label_e);
        if (i < it.labels && it.place[ctc_at(it, 1u, i)] != it.place[ctc_at(it, 1u, i - 1)]) skip = 0;
      }
      number blank = ctc_make<M, i64>(late[i].blank_m, late[i].blank_e);
      number into_blank = ctc_sum2(blank, below);
      int at = it.labels - i;
      number early_blank = ctc_make<M, i64>(early[at].blank_m, early[at].blank_e);
      number into_label = ctc_none<M, i64>(), early_label = ctc_none<M, i64>();
      if (i < it.labels) {
        number label = ctc_make<M, i64>(late[i].label_m, late[i].label_e);
        into_label = ctc_sum3(label, blank, ctc_make<M, i64>(below.m, below.e + skip));
        early_label = ctc_make<M, i64>(early[at - 1].label_m, early[at - 1].label_e);
      }
      if (pass == 0) {
        top = ctc_max(top, ctc_max(into_blank.e + early_blank.e, into_label.e + early_label.e));
      } else {
        sum += ctc_product(into_blank, early_blank, top) + ctc_product(into_label, early_label, top);
      }
    }
    if (pass == 0) top = ctc_warp_max(top);
  }
  return ctc_make<M, i64>(ctc_warp_sum(sum), top);
}

// Both directions of an item: P, and with `keep` the posterior of each state, not yet divided by P. It stands
// where the mantissas were kept. Every thread returns the same P.
template <typename M, typename X, int K, int DEPTH, typename Edges>
CTC_FN ctc_number<M, i64> ctc_run(CTC_THREAD const ctc_item<M>& it, Edges edges, bool keep, ctc_thread at,
                                  CTC_SHARED M* sums, CTC_SHARED i64* tops) {
  uint warps = at.warps / 2u;
  uint direction = at.warp / warps, warp = at.warp % warps;
  int midway = direction == 0u ? it.middle : it.frames - it.middle;
  int span = it.labels < 32 * K ? it.middle : CTC_HALO;
  int rounds = (it.middle + span - 1) / span;
  uint parity = ctc_advance<M, X, K, DEPTH, false>(it, edges, 0u, direction, 0, midway, rounds, span, keep, X(0), warp, warps, at.lane);
  if (at.warp == 0u) {
    ctc_number<M, i64> p = ctc_meet<M>(it, edges, parity, at.lane);
    if (at.lane == 0u) {
      sums[0] = p.m;
      tops[0] = p.e;
    }
  }
  ctc_barrier();
  ctc_number<M, i64> p = ctc_make<M, i64>(sums[0], tops[0]);
  if (keep && p.e > ctc_zero_below((i64)0))
    ctc_advance<M, X, K, DEPTH, true>(it, edges, parity, direction, midway, it.frames, rounds, span, false, (X)p.e, warp, warps, at.lane);
  return p;
}

// The same with exponents of 64 bits, for the rare item that needs them: a pair a thread, and a function of its
// own, so that the usual way has the registers for itself.
template <typename M, typename Edges>
CTC_RARE ctc_number<M, i64> ctc_run_far(CTC_THREAD const ctc_item<M>& it, Edges edges, bool keep, ctc_thread at,
                                        CTC_SHARED M* sums, CTC_SHARED i64* tops) {
  return ctc_run<M, i64, 1, 2>(it, edges, keep, at, sums, tops);
}

// One block an item; at least two warps, half of them for each direction. `sums` has 8 places.
template <typename M, int K, int DEPTH, typename Edges>
CTC_FN void ctc_lattice_body(CTC_CONSTANT const ctc_sizes& p, const CTC_DEVICE uint* tables,
                             const CTC_DEVICE ctc_emission<M>* emissions, const CTC_DEVICE M* records,
                             CTC_DEVICE typename ctc_real<M>::word* kept, CTC_DEVICE M* losses, CTC_DEVICE M* weighted,
                             Edges edges, ctc_thread at, CTC_SHARED M* sums, CTC_SHARED i64* tops) {
  i64 n = (i64)at.block;
  uint needed = tables[CTC_NEEDED(p, n)];
  ctc_item<M> it;
  it.frames = (int)tables[CTC_INPUT_LENGTH(p, n)];
  it.labels = (int)tables[CTC_TARGET_LENGTH(p, n)];
  it.middle = (it.frames + 1) / 2;
  it.used = tables[CTC_USED(p, n)];
  it.entries = p.entries;
  it.width = p.labels + 1;
  it.emissions = emissions + n * p.frames * p.entries;
  it.kept = (CTC_DEVICE ctc_words<M>*)kept + (p.flags & CTC_KEEP ? n * p.frames * 2 * it.width : 0);
  it.place = tables + CTC_PLACE(p, n);

  // What the frames were divided by, added up by 64 threads in any block.
  if (at.index < 64u) {
    const CTC_DEVICE M* record = records + n * p.frames * 3;
    ctc_pair<M> scale;
    scale.high = scale.low = M(0);
    M peak = M(0);
    for (i64 t = at.index; t < it.frames && needed != CTC_BAD; t += 64) {
      ctc_add(scale, record[3 * t], record[3 * t + 1]);
      peak = ctc_max(peak, record[3 * t + 2]);
    }
    ctc_warp_sum(scale);
    peak = ctc_warp_max(peak);
    if (at.lane == 0u) {
      sums[1u + 3u * at.warp] = scale.high;
      sums[2u + 3u * at.warp] = scale.low;
      sums[3u + 3u * at.warp] = peak;
    }
  }
  // All is in the first state, before the first frame.
  for (int i = (int)at.index; i < 2 * (it.labels + 1); i += (int)at.threads) {
    Edges edge = edges + (i % 2) * it.width + i / 2;
    edge->blank_m = edge->label_m = M(1);
    edge->blank_e = i / 2 == 0 ? (i64)0 : ctc_zero((i64)0);
    edge->label_e = ctc_zero((i64)0);
  }
  ctc_barrier();
  ctc_pair<M> log_p;
  log_p.high = sums[1];
  log_p.low = sums[2];
  ctc_add(log_p, sums[4], sums[5]);
  M peak = ctc_max(sums[3], sums[6]);

  M loss;
  if (needed == CTC_BAD || peak == ctc_real<M>::infinity()) {
    loss = ctc_real<M>::nan();
  } else if (it.frames == 0 && it.labels == 0) {
    loss = M(0);
  } else if ((uint)it.frames < needed) {
    loss = ctc_real<M>::infinity();
  } else {
    bool keep = (p.flags & CTC_KEEP) != 0u;
    ctc_number<M, i64> total;
    if (!ctc_real<M>::near_is_all() && M(it.frames) * peak > M(CTC_PATH_LIMIT)) {
      // A copy: the address of `it` itself would keep it out of registers.
      ctc_item<M> far = it;
      total = ctc_run_far<M>(far, edges, keep, at, sums, tops);
    } else {
      total = ctc_run<M, typename ctc_real<M>::near, K, DEPTH>(it, edges, keep, at, sums, tops);
    }
    if (total.e > ctc_zero_below((i64)0)) {
      ctc_add_ln2(log_p, total.e);
      ctc_add(log_p, ctc_log_sum(total.m, M(0)), M(0));
      loss = ctc_loss_of(log_p, it.frames, (p.flags & CTC_LOGITS) != 0u);
    } else {
      loss = ctc_real<M>::infinity();
    }
  }
  if (at.index == 0u) {
    losses[n] = loss;
    if (p.flags & CTC_ZERO_INFINITY && loss == ctc_real<M>::infinity()) loss = M(0);
    weighted[n] = p.flags & CTC_MEAN ? loss / M(ctc_max(it.labels, 1)) / M(p.batch) : loss;
  }
}

// The sum of `count` losses, in an order that is always the same. For one block.
template <typename M>
CTC_FN void ctc_reduce_body(i64 count, const CTC_DEVICE M* losses, CTC_DEVICE M* sum, ctc_thread at, CTC_SHARED M* shared) {
  M part = M(0);
  for (i64 n = at.index; n < count; n += at.threads) part += losses[n];
  part = ctc_row_sum(part, true, at, shared);
  if (at.index == 0u) sum[0] = part;
}

// ---- gradient

// The part of the gradient that every class has: a constant, exp(x), or exp(x - largest), times a factor.
#define CTC_CONSTANT_PART 0
#define CTC_EXP_PART 1
#define CTC_SOFTMAX_PART 2

template <int PART, typename M> CTC_FN M ctc_dense(M x, M largest, M factor) {
  if (PART == CTC_SOFTMAX_PART) return ctc_real<M>::exp_fast(x - largest) * factor;
  // As PyTorch: NaN at -inf.
  if (PART == CTC_EXP_PART) return x == -ctc_real<M>::infinity() ? ctc_real<M>::nan() : ctc_real<M>::exp(x) * factor;
  return factor;
}
template <typename M> CTC_FN M ctc_dense_of(int part, M x, M largest, M factor) {
  if (part == CTC_SOFTMAX_PART) return ctc_dense<CTC_SOFTMAX_PART, M>(x, largest, factor);
  if (part == CTC_EXP_PART) return ctc_dense<CTC_EXP_PART, M>(x, largest, factor);
  return factor;
}

// Vectors of a row that are on their way for each lane.
#define CTC_ON_THEIR_WAY 4

// Vectors of a row: each is asked for CTC_ON_THEIR_WAY turns before it is used.
template <int PART, bool PACKED, typename M, typename E>
CTC_FN void ctc_dense_vectors(const CTC_DEVICE E* x, i64 stride, CTC_DEVICE E* y, uint count, uint lane, uint lanes,
                              M largest, M factor) {
  const int N = ctc_vector<E>::COUNT;
  const bool READ = PART != CTC_CONSTANT_PART;
  i64 from = (i64)lanes * N * stride, to = (i64)lanes * N;
  x += (i64)lane * N * stride;
  y += (i64)lane * N;
  ctc_chunk<E, PACKED> chunk[CTC_ON_THEIR_WAY];
  CTC_UNROLL
  for (uint d = 0u; d < CTC_ON_THEIR_WAY; d++) {
    if (READ && lane + d * lanes < count) ctc_read(x + d * from, stride, chunk[d]);
  }
  for (uint i = lane; i < count; i += CTC_ON_THEIR_WAY * lanes) {
    x += CTC_ON_THEIR_WAY * from;
    CTC_UNROLL
    for (uint d = 0u; d < CTC_ON_THEIR_WAY; d++) {
      M v[N];
      CTC_UNROLL
      for (int j = 0; j < N; j++) v[j] = M(0);
      if (READ) ctc_values(chunk[d], v);
      if (READ && i + (CTC_ON_THEIR_WAY + d) * lanes < count) ctc_read(x + d * from, stride, chunk[d]);
      CTC_UNROLL
      for (int j = 0; j < N; j++) v[j] = ctc_dense<PART, M>(v[j], largest, factor);
      if (i + d * lanes < count) ctc_store_once((CTC_DEVICE uint4*)(y + d * to), ctc_vector<E>::put(v));
    }
    y += CTC_ON_THEIR_WAY * to;
  }
}

// Entries of a row up to `to`, of which each lane asks for COUNT at a time.
template <int PART, int COUNT, typename M, typename E>
CTC_FN void ctc_dense_entries(const CTC_DEVICE E* x, i64 stride, CTC_DEVICE E* y, uint from, uint to, uint lane,
                              uint lanes, M largest, M factor) {
  for (uint c = from + lane; c < to; c += COUNT * lanes) {
    M v[COUNT];
    CTC_UNROLL
    for (uint j = 0u; j < COUNT; j++)
      v[j] = PART != CTC_CONSTANT_PART && (j == 0u || c + j * lanes < to) ? ctc_widen(x[(c + j * lanes) * stride]) : M(0);
    CTC_UNROLL
    for (uint j = 0u; j < COUNT; j++)
      if (j == 0u || c + j * lanes < to) ctc_narrow(ctc_dense<PART, M>(v[j], largest, factor), y + c + j * lanes);
  }
}

// A whole row. In a long one what stands before the first whole vector of the gradient, and behind the last, is
// written entry by entry. No result depends on which lane writes it.
template <int PART, bool LONG, typename M, typename E>
CTC_FN void ctc_dense_row(const CTC_DEVICE E* x, i64 stride, uint x_phase, CTC_DEVICE E* y, uint y_phase, uint classes,
                          uint lane, uint lanes, M largest, M factor) {
  if (!LONG) {
    if (classes <= lanes) ctc_dense_entries<PART, 1, M, E>(x, stride, y, 0u, classes, lane, lanes, largest, factor);
    else ctc_dense_entries<PART, 4, M, E>(x, stride, y, 0u, classes, lane, lanes, largest, factor);
    return;
  }
  const uint N = (uint)ctc_vector<E>::COUNT;
  uint head = (N - y_phase) % N;
  uint vectors = (classes - head) / N;
  ctc_dense_entries<PART, 1, M, E>(x, stride, y, 0u, head, lane, lanes, largest, factor);
  ctc_dense_entries<PART, 1, M, E>(x, stride, y, head + vectors * N, classes, lane, lanes, largest, factor);
  if (stride == 1 && (x_phase + head) % N == 0u)
    ctc_dense_vectors<PART, true, M, E>(x + head, 1, y + head, vectors, lane, lanes, largest, factor);
  else
    ctc_dense_vectors<PART, false, M, E>(x + head * stride, stride, y + head, vectors, lane, lanes, largest, factor);
}

// The posteriors of a class: those of its labels, from `from` on, each `step` of them.
template <typename M>
CTC_FN M ctc_class_sum(const CTC_DEVICE typename ctc_real<M>::word* states, int next, const CTC_DEVICE uint* position,
                       uint from, uint to, uint step) {
  M sum = M(0);
  // Four at a time: each waits for its place first.
  for (uint i = from; i < to; i += 4u * step) {
    uint place[4];
    CTC_UNROLL
    for (uint j = 0u; j < 4u; j++) place[j] = i + j * step < to ? position[i + j * step] : position[i];
    M part[4];
    CTC_UNROLL
    for (uint j = 0u; j < 4u; j++) part[j] = ctc_real<M>::from_bits(states[next * (int)place[j]]);
    CTC_UNROLL
    for (uint j = 0u; j < 4u; j++) sum += i + j * step < to ? part[j] : M(0);
  }
  return sum;
}

// The gradient of a target's classes, over what is written for them already: a class a lane, four at a time. Three
// reads wait for one another, and those of four classes go together.
template <typename M, typename E>
CTC_FN void ctc_used_gradient(CTC_CONSTANT const ctc_sizes& p, const CTC_DEVICE uint* tables, i64 n,
                              const CTC_DEVICE typename ctc_real<M>::word* states, int next, const CTC_DEVICE E* x,
                              CTC_DEVICE E* y, int part, M largest, M factor, M posterior, uint lane, uint lanes) {
  const CTC_DEVICE uint* distinct = tables + CTC_DISTINCT(p, n);
  const CTC_DEVICE uint* position = tables + CTC_POSITION(p, n);
  const CTC_DEVICE uint* end = tables + CTC_END(p, n);
  uint used = tables[CTC_USED(p, n)];
  for (uint k = lane; k < used; k += 4u * lanes) {
    uint c[4], from[4], to[4], place[4];
    M entry[4], sum[4];
    CTC_UNROLL
    for (uint j = 0u; j < 4u; j++) {
      uint i = ctc_min(k + j * lanes, used - 1u);
      c[j] = distinct[i];
      from[j] = i > 0u ? end[i - 1u] : 0u;
      to[j] = end[i];
    }
    CTC_UNROLL
    for (uint j = 0u; j < 4u; j++) {
      place[j] = position[from[j]];
      entry[j] = part == CTC_CONSTANT_PART ? M(0) : ctc_widen(x[(i64)c[j] * p.x_class]);
    }
    CTC_UNROLL
    for (uint j = 0u; j < 4u; j++) sum[j] = ctc_real<M>::from_bits(states[next * (int)place[j]]);
    CTC_UNROLL
    for (uint j = 0u; j < 4u; j++) {
      sum[j] += ctc_class_sum<M>(states, next, position, from[j] + 1u, to[j], 1u);
      if (k + j * lanes < used)
        ctc_narrow(ctc_dense_of<M>(part, entry[j], largest, factor) - posterior * sum[j], y + c[j]);
    }
  }
}

// The same where classes come often: a class a warp, its labels by lane.
template <typename M, typename E>
CTC_FN void ctc_often_used_gradient(CTC_CONSTANT const ctc_sizes& p, const CTC_DEVICE uint* tables, i64 n,
                                    const CTC_DEVICE typename ctc_real<M>::word* states, int next,
                                    const CTC_DEVICE E* x, CTC_DEVICE E* y, int part, M largest, M factor, M posterior,
                                    uint lane, uint warp, uint warps) {
  const CTC_DEVICE uint* distinct = tables + CTC_DISTINCT(p, n);
  const CTC_DEVICE uint* position = tables + CTC_POSITION(p, n);
  const CTC_DEVICE uint* end = tables + CTC_END(p, n);
  uint used = tables[CTC_USED(p, n)];
  for (uint k = warp; k < used; k += warps) {
    uint start = k > 0u ? end[k - 1u] : 0u;
    M sum = ctc_class_sum<M>(states, next, position, start + lane, end[k], 32u);
    sum = ctc_warp_sum(sum);
    if (lane == 0u) {
      i64 c = (i64)distinct[k];
      M entry = part == CTC_CONSTANT_PART ? M(0) : ctc_widen(x[c * p.x_class]);
      ctc_narrow(ctc_dense_of<M>(part, entry, largest, factor) - posterior * sum, y + c);
    }
  }
}

// A row is short where it has fewer classes than CTC_LONG_ROW, and its target up to so many labels. Short rows are for
// blocks of up to so many warps.
#define CTC_SHORT_LABELS 256
#define CTC_SHORT_WARPS 4

// What a warp holds in shared memory for the short rows of an item.
template <typename M> struct ctc_short {
  // Posteriors of a row's labels, those of a class one behind the other.
  CTC_SHARED M* posteriors;
  // For each label where it stands among them, and for each class where its own begin, and in the upper half where
  // they end.
  CTC_SHARED uint* rank;
  CTC_SHARED uint* span;
};

// The tables of item n.
template <typename M>
CTC_FN void ctc_short_tables(CTC_CONSTANT const ctc_sizes& p, const CTC_DEVICE uint* tables, i64 n, int labels,
                             ctc_short<M> own, uint lane) {
  const CTC_DEVICE uint* distinct = tables + CTC_DISTINCT(p, n);
  const CTC_DEVICE uint* position = tables + CTC_POSITION(p, n);
  const CTC_DEVICE uint* end = tables + CTC_END(p, n);
  uint used = tables[CTC_USED(p, n)];
  CTC_UNROLL_4
  for (uint i = lane; i < (uint)labels; i += 32u) own.rank[position[i]] = i;
  for (uint c = lane; c < (uint)p.classes; c += 32u) own.span[c] = 0u;
  ctc_simd_barrier();
  // What reads them has a barrier before it.
  for (uint k = lane; k < used; k += 32u) own.span[distinct[k]] = (k > 0u ? end[k - 1u] : 0u) | end[k] << 16;
}

// The posteriors of a short row's blanks and labels, summed up by lane; those of labels go where their classes are.
// `pairs` holds a blank and a label each: in an early frame the blank and the label below it, in a late one the blank
// and the label above it, the last first.
template <typename M>
CTC_FN void ctc_short_posteriors(const CTC_DEVICE ctc_words<M>* pairs, int labels, bool early, ctc_short<M> own, uint lane,
                                 CTC_THREAD M& blank, CTC_THREAD M& rest) {
  int down = early ? 1 : 0;
  for (int i = (int)lane; i <= labels; i += 128) {
    ctc_words<M> pair[4];
    CTC_UNROLL
    for (int j = 0; j < 4; j++) {
      int k = i + 32 * j;
      const CTC_DEVICE ctc_words<M>* from = pairs + (early ? k : labels - k);
      pair[j].low = pair[j].high = 0u;
      if (k <= labels) {
        pair[j].low = from->low;
        pair[j].high = from->high;
      }
    }
    CTC_UNROLL
    for (int j = 0; j < 4; j++) {
      int label = i + 32 * j - down;
      blank += ctc_real<M>::from_bits(pair[j].low);
      if ((uint)label < (uint)labels) {
        rest += ctc_real<M>::from_bits(pair[j].high);
        own.posteriors[own.rank[label]] = ctc_real<M>::from_bits(pair[j].high);
      }
    }
  }
}

// The sum of posteriors from `v` to `end`, each `step` of them.
template <typename M> CTC_FN M ctc_short_sum(const CTC_SHARED M* v, const CTC_SHARED M* end, int step) {
  M sum = M(0);
  // Four at a time, which do not wait for one another.
  for (; v < end; v += 4 * step) {
    M b = v + step < end ? v[step] : M(0);
    M c = v + 2 * step < end ? v[2 * step] : M(0);
    M d = v + 3 * step < end ? v[3 * step] : M(0);
    sum += (v[0] + b) + (c + d);
  }
  return sum;
}

// The short rows of items with up to CTC_SHORT_LABELS labels, a warp each: some frames of an item one after the other,
// for which it brings the item's tables into shared memory.
template <typename M, typename E>
CTC_FN void ctc_short_rows(CTC_CONSTANT const ctc_sizes& p, const CTC_DEVICE E* input, const CTC_DEVICE uint* tables,
                           const CTC_DEVICE ctc_words<M>* kept, const CTC_DEVICE M* stats, const CTC_DEVICE M* losses,
                           const CTC_DEVICE M* upstream, CTC_DEVICE E* gradient, ctc_thread at, ctc_short<M> own) {
  i64 run = (i64)ctc_frames_of_a_warp(p);
  i64 runs = ctc_runs_of_an_item(p, (uint)run);
  // Many warps have none.
  if (at.block * at.warps + at.warp >= (u64)(runs * p.batch)) return;
  uint classes = (uint)p.classes, lane = at.lane;
  bool logits = (p.flags & CTC_LOGITS) != 0u;
  bool torch = !logits && (p.flags & CTC_TORCH) != 0u;
  // As many lanes for a class as there are for all of them.
  uint share = 1u;
  while (2u * share * classes <= 32u) share *= 2u;
  uint first = lane / share, mine = lane % share, step = 32u / share;
  i64 y_frame = p.flags & CTC_BATCH_MAJOR ? p.classes : p.batch * p.classes;
  i64 y_item = p.flags & CTC_BATCH_MAJOR ? p.frames * p.classes : p.classes;
  for (u64 r = at.block * at.warps + at.warp; r < (u64)(runs * p.batch); r += at.blocks * at.warps) {
    // In the order of the gradient.
    i64 n, start;
    if (p.flags & CTC_BATCH_MAJOR) n = ctc_piece(r, runs, start);
    else start = ctc_piece(r, p.batch, n);
    start *= run;
    int labels = (int)tables[CTC_TARGET_LENGTH(p, n)];
    if (labels > CTC_SHORT_LABELS) continue;
    int frames = (int)tables[CTC_INPUT_LENGTH(p, n)], middle = (frames + 1) / 2;
    int t = (int)start, end = (int)ctc_min(start + run, p.frames);
    M loss = losses[n];
    M scale = upstream[p.up_offset + n * p.up_item];
    if (p.flags & CTC_MEAN) scale = scale / M(ctc_max(labels, 1)) / M(p.batch);
    bool infinite = loss == ctc_real<M>::infinity();
    bool none = infinite || loss != loss;
    const CTC_DEVICE E* x = input + (p.x_offset + start * p.x_frame + n * p.x_item + first * p.x_class);
    CTC_DEVICE E* y = gradient + (start * y_frame + n * y_item + first);
    const CTC_DEVICE ctc_words<M>* pairs = kept + (n * p.frames + start) * 2 * (p.labels + 1);
    const CTC_DEVICE M* stat = stats + (logits ? 2 * (n * p.frames + start) : 0);
    if (!none && t < frames) ctc_short_tables<M>(p, tables, n, labels, own, lane);
    for (; t < end; t++) {
      if (none || t >= frames) {
        // The loss does not depend on these frames; PyTorch has NaN where it is infinite.
        bool nan = t < frames && (!infinite || (torch && !(p.flags & CTC_ZERO_INFINITY)));
        for (uint c = 0u; first + c < classes; c += step) {
          if (mine == 0u) ctc_narrow(nan ? ctc_real<M>::nan() : M(0), y + c);
        }
        y += y_frame;
        continue;
      }
      // An entry is asked for one turn before it is used.
      M next = (logits || torch) && first < classes ? ctc_widen(*x) : M(0);
      M largest = logits ? stat[0] : M(0);
      M factor = logits ? ctc_divide(scale, stat[1]) : torch ? scale : M(0);
      M blank = M(0), rest = M(0);
      ctc_short_posteriors<M>(pairs, labels, t < middle, own, lane, blank, rest);
      ctc_simd_barrier();
      blank = ctc_warp_sum(blank);
      rest = ctc_warp_sum(rest);
      // The posterior of a frame is divided by its own sum: that takes out the rounding that all share.
      M posterior = ctc_divide(scale, blank + rest);
      for (uint c = 0u; c < classes; c += step) {
        bool there = first + c < classes;
        M entry = next;
        if ((logits || torch) && first + c + step < classes) next = ctc_widen(x[(c + step) * p.x_class]);
        uint span = there ? own.span[first + c] : 0u;
        M sum = ctc_short_sum<M>(own.posteriors + ((span & 0xffffu) + mine), own.posteriors + (span >> 16), (int)share);
        for (uint mask = share / 2u; mask > 0u; mask /= 2u) sum = sum + ctc_shuffle_xor(sum, mask);
        if (first + c == p.blank) sum = blank;
        M g = factor;
        if (logits) g = ctc_dense<CTC_SOFTMAX_PART, M>(entry, largest, factor);
        else if (torch) g = ctc_dense<CTC_EXP_PART, M>(entry, largest, factor);
        if (sum != M(0)) g = g - posterior * sum;
        if (there && mine == 0u) ctc_narrow(g, y + c);
      }
      // The next row's posteriors, or the next item's tables, take the place of these.
      ctc_simd_barrier();
      x += p.x_frame;
      y += y_frame;
      stat += 2;
      pairs += 2 * (p.labels + 1);
    }
  }
}

// A row is a frame of an item, in the order of the gradient: a warp's, or with `wide` a block's. Leaves out the items with
// fewer labels than `fewest`. LONG says whether rows have CTC_LONG_ROW classes or more.
template <typename M, typename E, bool LONG>
CTC_FN void ctc_gradient_body(CTC_CONSTANT const ctc_sizes& p, const CTC_DEVICE E* input, const CTC_DEVICE uint* tables,
                              const CTC_DEVICE typename ctc_real<M>::word* kept, const CTC_DEVICE M* stats,
                              const CTC_DEVICE M* losses, const CTC_DEVICE M* upstream, CTC_DEVICE E* gradient,
                              int fewest, bool wide, ctc_thread at, CTC_SHARED M* shared) {
  uint lane = wide ? at.index : at.lane;
  uint lanes = wide ? at.threads : 32u;
  uint warp = wide ? at.warp : 0u;
  uint warps = wide ? at.warps : 1u;
  u64 per_block = wide ? 1u : at.warps;
  u64 rows = (u64)(p.frames * p.batch);
  uint classes = (uint)p.classes;
  bool logits = (p.flags & CTC_LOGITS) != 0u;
  bool torch = !logits && (p.flags & CTC_TORCH) != 0u;
  int part = logits ? CTC_SOFTMAX_PART : torch ? CTC_EXP_PART : CTC_CONSTANT_PART;
  i64 width = p.labels + 1;
  for (u64 r = at.block * per_block + (wide ? 0u : at.warp); r < rows; r += at.blocks * per_block) {
    i64 n, t;
    if (p.flags & CTC_BATCH_MAJOR) n = ctc_piece(r, p.frames, t);
    else t = ctc_piece(r, p.batch, n);
    CTC_DEVICE E* y = gradient + (i64)r * p.classes;
    uint y_phase = ctc_phase(gradient, (i64)r * p.classes);
    i64 at_row = n * p.frames + t;
    i64 offset = p.x_offset + t * p.x_frame + n * p.x_item;
    const CTC_DEVICE E* x = input + offset;
    uint x_phase = ctc_phase(input, offset);
    int labels = (int)tables[CTC_TARGET_LENGTH(p, n)];
    if (labels < fewest) continue;
    M loss = losses[n];
    bool used_frame = t < (i64)tables[CTC_INPUT_LENGTH(p, n)];
    bool infinite = loss == ctc_real<M>::infinity();
    if (!used_frame || infinite || loss != loss) {
      // The loss does not depend on these frames; PyTorch has NaN where it is infinite.
      bool nan = used_frame && (!infinite || (torch && !(p.flags & CTC_ZERO_INFINITY)));
      ctc_dense_row<CTC_CONSTANT_PART, LONG, M>(x, p.x_class, x_phase, y, y_phase, classes, lane, lanes, M(0),
                                          nan ? ctc_real<M>::nan() : M(0));
      continue;
    }
    uint used = tables[CTC_USED(p, n)];
    M scale = upstream[p.up_offset + n * p.up_item];
    if (p.flags & CTC_MEAN) scale = scale / M(ctc_max(labels, 1)) / M(p.batch);
    // Posteriors of a blank and a label side by side, in the order of the direction that kept the frame.
    bool early = t < ((i64)tables[CTC_INPUT_LENGTH(p, n)] + 1) / 2;
    const CTC_DEVICE typename ctc_real<M>::word* blanks = kept + at_row * 4 * width + (early ? 0 : 2 * labels);
    const CTC_DEVICE typename ctc_real<M>::word* states = blanks + (early ? 3 : 1);
    int next = early ? 2 : -2;
    // Asked for before the row, and summed up behind it.
    M blank = M(0), rest = M(0);
    CTC_UNROLL_4
    for (int i = (int)lane; i <= labels; i += (int)lanes) {
      // A blank, and the label below it in an early frame, above it in a late one.
      const CTC_DEVICE ctc_words<M>* pair = (const CTC_DEVICE ctc_words<M>*)(blanks + next * i);
      typename ctc_real<M>::word low = pair->low, high = pair->high;
      blank += ctc_real<M>::from_bits(low);
      if (i != (early ? 0 : labels)) rest += ctc_real<M>::from_bits(high);
    }
    M largest = M(0), factor = M(0);
    if (logits) {
      largest = stats[2 * at_row];
      factor = scale / stats[2 * at_row + 1];
      ctc_dense_row<CTC_SOFTMAX_PART, LONG, M>(x, p.x_class, x_phase, y, y_phase, classes, lane, lanes, largest, factor);
    } else if (torch) {
      factor = scale;
      ctc_dense_row<CTC_EXP_PART, LONG, M>(x, p.x_class, x_phase, y, y_phase, classes, lane, lanes, largest, factor);
    } else {
      ctc_dense_row<CTC_CONSTANT_PART, LONG, M>(x, p.x_class, x_phase, y, y_phase, classes, lane, lanes, largest, factor);
    }
    // The classes of the target once more, now that all are written.
    if (wide) ctc_barrier();
    else ctc_simd_barrier();
    // The posterior of a frame is divided by its own sum: that takes out the rounding that all share.
    ctc_row_sums(blank, rest, wide, at, shared);
    M posterior = scale / (blank + rest);
    // Where all classes of the target come often, a warp takes one of them. Either way sums have an order of their own.
    if ((uint)labels >= 8u * used)
      ctc_often_used_gradient<M>(p, tables, n, states, next, x, y, part, largest, factor, posterior, at.lane, warp, warps);
    else ctc_used_gradient<M>(p, tables, n, states, next, x, y, part, largest, factor, posterior, lane, lanes);
    if (lane == 0u) {
      M entry = part == CTC_CONSTANT_PART ? M(0) : ctc_widen(x[(i64)p.blank * p.x_class]);
      ctc_narrow(ctc_dense_of<M>(part, entry, largest, factor) - posterior * blank, y + p.blank);
    }
  }
}

// Short rows, and those of items whose targets are too long for that. `posteriors` and `places` have room for the
// short rows of CTC_SHORT_WARPS warps.
template <typename M, typename E>
CTC_FN void ctc_gradient_short_body(CTC_CONSTANT const ctc_sizes& p, const CTC_DEVICE E* input,
                                    const CTC_DEVICE uint* tables, const CTC_DEVICE typename ctc_real<M>::word* kept,
                                    const CTC_DEVICE M* stats, const CTC_DEVICE M* losses, const CTC_DEVICE M* upstream,
                                    CTC_DEVICE E* gradient, ctc_thread at, CTC_SHARED M* shared, CTC_SHARED M* posteriors,
                                    CTC_SHARED uint* places) {
  ctc_short<M> own;
  own.posteriors = posteriors + at.warp * CTC_SHORT_LABELS;
  own.rank = places + at.warp * (CTC_SHORT_LABELS + CTC_LONG_ROW);
  own.span = own.rank + CTC_SHORT_LABELS;
  ctc_short_rows<M, E>(p, input, tables, (const CTC_DEVICE ctc_words<M>*)kept, stats, losses, upstream, gradient, at, own);
  if (p.labels > CTC_SHORT_LABELS)
    ctc_gradient_body<M, E, false>(p, input, tables, kept, stats, losses, upstream, gradient, CTC_SHORT_LABELS + 1, false,
                                   at, shared);
}
