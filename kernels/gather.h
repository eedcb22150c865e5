// What the lattice needs of each row.
//
//   for each frame of each item, a warp or a block:
//     x = the entries of the classes that the target uses, and of the blank
//     largest = max(x)
//     emissions = exp(x - largest), as mantissas and exponents
//     with logits: total = log(sum of exp(row))
//     record = largest - total, which the emissions were divided by, and how far the lowest of x is below the largest

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

// Adds exp(x - largest) of some entries, none of which is above the largest. Where all are -inf, all count 0.
template <typename M, int COUNT> CTC_FN void ctc_add_exponentials(CTC_THREAD ctc_row_stats<M>& s, CTC_THREAD const M* v) {
  M reference = s.largest > -ctc_real<M>::infinity() ? s.largest : M(0);
  CTC_UNROLL
  for (int b = 0; b < COUNT; b++) {
    M e = ctc_real<M>::exp_fast(v[b] - reference);
    if (v[b] == reference) s.ones += M(1);
    else s.others += e;
  }
}

// Adds some entries. Once the largest is NaN it stays so.
template <typename M, int COUNT> CTC_FN void ctc_take(CTC_THREAD ctc_row_stats<M>& s, CTC_THREAD const M* v) {
  M top = s.largest;
  CTC_UNROLL
  for (int b = 0; b < COUNT; b++) top = ctc_max_or_nan(v[b], top);
  ctc_rebase(s, top);
  ctc_add_exponentials<M, COUNT>(s, v);
}

// Takes a lane's vectors of a row, two at a time, and requests the next two before it uses these. Which vectors are
// a lane's depends only on the row's length, not on its address, so a sum is the same in any batch.
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
  s.ones = M(0);
  s.others = top != top ? top : M(0);
  ctc_add_exponentials<M, COUNT>(s, v);
  s.ones = ctc_warp_sum(s.ones);
  s.others = ctc_warp_sum(s.others);
  return s;
}

// The sums of a row that starts `phase` entries past a multiple of 16 bytes. With `wide`, only the first warp
// returns the sums of the whole row.
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

// What is added to the entries of a frame: for each class, and for every label but not the blank.
template <typename M> struct ctc_weights {
  const CTC_DEVICE M* of_class;
  M of_label;
};

// The entries of those classes, with their weights if WEIGHTED; -inf beyond the last.
template <typename M, typename E, int COUNT, bool WEIGHTED>
CTC_FN void ctc_used_entries(CTC_CONSTANT const ctc_sizes& p, const CTC_DEVICE E* x, ctc_weights<M> weights,
                             CTC_THREAD const uint* c, uint used, uint k, uint lanes, CTC_THREAD M* v) {
  CTC_UNROLL
  for (uint j = 0u; j < COUNT; j++) {
    v[j] = k + j * lanes <= used ? ctc_widen(x[c[j] * p.x_class]) : -ctc_real<M>::infinity();
    if (WEIGHTED) v[j] += weights.of_class[c[j]] + (c[j] == p.blank ? M(0) : weights.of_label);
  }
}

// The emissions of `count` frames one after the other, of which each lane asks for COUNT at a time: with ONCE that is
// all of them. For the frame that has the number of the lane, sets the largest entry, and half of how far the lowest
// finite one is below it, also where that counts as -inf: +inf if one is NaN or +inf.
template <typename M, typename E, int COUNT, bool ONCE, bool WEIGHTED>
CTC_FN void ctc_emit(CTC_CONSTANT const ctc_sizes& p, const CTC_DEVICE E* x, ctc_weights<M> weights,
                     const CTC_DEVICE uint* distinct, uint used, CTC_DEVICE ctc_emission<M>* y, uint count,
                     CTC_THREAD M& its_largest, CTC_THREAD M& its_peak, uint lane, uint lanes, bool wide, ctc_thread at,
                     CTC_SHARED M* shared) {
  M lowest = -ctc_real<M>::infinity();
  uint c[COUNT];
  M v[COUNT];
  ctc_used_classes<COUNT>(p, distinct, used, lane, lanes, c);
  for (uint f = 0u; f < count; f++) {
    // NaN and +inf are set aside: a comparison with them says nothing.
    M poison = M(0), largest = lowest;
    for (uint k = lane; k <= used; k += COUNT * lanes) {
      if (!ONCE && used >= COUNT * lanes) ctc_used_classes<COUNT>(p, distinct, used, k, lanes, c);
      ctc_used_entries<M, E, COUNT, WEIGHTED>(p, x, weights, c, used, k, lanes, v);
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
        ctc_used_entries<M, E, COUNT, WEIGHTED>(p, x, weights, c, used, k, lanes, v);
      }
      CTC_UNROLL
      for (uint j = 0u; j < COUNT; j++) {
        if (k + j * lanes <= used) {
          ctc_emission<M> split = ctc_split(v[j] < largest ? v[j] : v[j] == largest ? v[j] : lowest, largest);
          y[k + j * lanes].m = split.m;
          y[k + j * lanes].e = split.e;
          // Of finite numbers, half the difference is finite.
          M half_gap = ctc_fma(M(-0.5f), v[j], M(0.5f) * largest);
          if (half_gap < ctc_real<M>::infinity()) peak = ctc_max_number(half_gap, peak);
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

// Rows of logits of up to 128 classes, or of log-probabilities of which up to 1024 entries are used. A warp takes
// some frames of an item one after the other, then the last steps of all of them together, one lane per frame.
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
    ctc_weights<M> none = {};
    if (used < 32u)
      ctc_emit<M, E, 1, true, false>(p, x, none, distinct, used, y, count, largest, peak, at.lane, 32u, false, at, shared);
    else if (used < 128u)
      ctc_emit<M, E, 4, true, false>(p, x, none, distinct, used, y, count, largest, peak, at.lane, 32u, false, at, shared);
    else
      ctc_emit<M, E, 8, false, false>(p, x, none, distinct, used, y, count, largest, peak, at.lane, 32u, false, at, shared);
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
// parts, and half of how far the lowest finite entry is below the largest, or +inf where the row holds a NaN or +inf.
// For logits also the largest of the row and its sum of exponentials.
//
// With WEIGHTED, `weights` holds a number for each class, and one more: the delay penalty, which is taken off a label
// as often as its frame has others before it.
template <typename M, typename E, bool WEIGHTED>
CTC_FN void ctc_gather_body(CTC_CONSTANT const ctc_sizes& p, const CTC_DEVICE E* input, const CTC_DEVICE uint* tables,
                            CTC_DEVICE ctc_emission<M>* emissions, CTC_DEVICE M* records, CTC_DEVICE M* stats,
                            const CTC_DEVICE M* weights, bool wide, ctc_thread at, CTC_SHARED M* shared) {
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
    ctc_weights<M> added = {};
    if (WEIGHTED) {
      added.of_class = weights;
      added.of_label = -weights[p.classes] * M(t);
    }
    if (used < lanes)
      ctc_emit<M, E, 1, true, WEIGHTED>(p, x, added, distinct, used, y, 1u, largest, peak, lane, lanes, wide, at, shared);
    else
      ctc_emit<M, E, 4, false, WEIGHTED>(p, x, added, distinct, used, y, 1u, largest, peak, lane, lanes, wide, at, shared);
    ctc_row_stats<M> row;
    row.largest = row.ones = row.others = M(0);
    if (logits) row = ctc_log_sum_exp<M>(p, x, ctc_phase(input, offset), lane, lanes, wide, at, shared);
    if (lane == 0u) ctc_leave<M>(logits, largest, peak, row, records + 3 * r, stats + (logits ? 2 * r : 0));
  }
}
