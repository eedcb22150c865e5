// The lattice of an item, a block: both directions at once, the loss, and the posterior of each state.
//
//   direction 0 goes from the first frame to the middle, direction 1 the same on the reversed item
//   for each frame (sweep):
//     into_blank[i] = blank[i] + label[i - 1]
//     into_label[i] = label[i] + blank[i] + (label[i - 1] where the two labels differ)
//     blank, label = into_blank * emission of the blank, into_label * emission of the label
//     keep them
//   P = the sum over states of the one direction times what flows into them from the other
//   for each frame past the middle (posterior pass): the same step, and
//     posterior = kept state of the other direction * what flows in / P, in the place of the kept blank
//
// What it costs: latency and issue. T frames, not 2 T, since both directions run at once: half of them in a sweep that
// keeps states, half in a posterior pass. A frame is one shuffle, then a chain of 10 dependent operations
// (skip, maximum, difference, power of two, two multiply-adds, emission). Instructions of a frame with K pairs of states
// a thread, and cycles from a replay of the compiled code for an H200 (estimates):
//   K = 1   sweep 39, 65    posterior pass 54, 82
//   K = 2   sweep 68, 104   posterior pass 93, 140
//   K = 4   sweep 134, 212  posterior pass 180, 284
// Measured on an H200 (1.98 GHz), both together: 93 cycles with K = 1, 159 with K = 2, 321 with three tiles of
// K = 2; T = 1000 and K = 1 take 58 us. A frame is that short because it has no branch, an address takes
// one instruction and a state one access, and the loads of DEPTH frames are issued together, a block ahead: 8 frames of
// 65 cycles cover a read from the L2 cache.
//
// There is no barrier within a frame. A target that fits one warp (32 K pairs) takes one for each direction; a longer one is
// cut into tiles of which each repeats the last HALO pairs of the one below, so that warps meet every HALO frames only.
//
// Memory: 16 bytes for each pair and frame (32 for f64). Each direction's sweep writes those of its half of the
// frames; posteriors then overwrite them.
//
// On an M-series GPU (figures on paper: no Mac has run it): 32 lanes, 32 KiB of threadgroup memory, about 208 KiB of
// registers a core. An item is a threadgroup of 2 to 8 SIMD-groups, one for each direction and tile.
//   registers: a lane holds 4 K words of states, and for each frame of two blocks 2 (K + 1) of emissions and 4 K of
//     kept states: about 100 for K = 1 and blocks of 4, 150 for K = 2 and 4, of 32 bits, with addresses. A SIMD-group
//     of 150 is 19 KiB, so a core holds 10: 5 items of one tile. A core needs 24 or so to hide latency by
//     itself; here loads are issued a block ahead.
//   threadgroup memory: 96 bytes a pair (two directions, old and new): 335 pairs fit 32 KiB, more are kept in
//     device memory. Targets of up to 63 labels take 6 KiB, so registers are the limit.
//   time: a frame has about as many instructions as above, and more where an address takes several. At one in 2
//     cycles for a SIMD-group and about 1.4 GHz, T = 1000 with K = 2 takes near 120 us.

// The states of a pair between two rounds of frames.
template <typename M> struct ctc_edge { i64 blank_e, label_e; M blank_m, label_m; };

// A state in memory, or the two posteriors of a pair: one instruction moves both words.
template <typename M> struct alignas(2 * sizeof(M)) ctc_words { typename ctc_real<M>::word low, high; };

// One item, as a block sees it. Direction 0 runs from the first frame on; direction 1 is the same recursion
// on the item reversed: last frame first, last label first.
template <typename M> struct ctc_item {
  const CTC_DEVICE ctc_emission<M>* emissions;
  // A frame has `width` places for blanks, then as many for labels, in the order of the direction that kept them.
  // A posterior pass puts the posteriors of its pairs (low: blank, high: label) in the places of their blanks.
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
  // Whether the lane stores each state: only states that this tile owns, and none if nothing is kept.
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

// What DEPTH steps read: emissions, and in a posterior pass the states that the other direction kept.
template <typename M, int K, int DEPTH, bool POSTERIORS> struct ctc_ahead {
  ctc_emission<M> blank[DEPTH], label[DEPTH][K];
  ctc_words<M> kept_blank[POSTERIORS ? DEPTH : 1][K], kept_label[POSTERIORS ? DEPTH : 1][K];
};

// The address `step` steps on.
CTC_FN const CTC_DEVICE char* ctc_on(const CTC_DEVICE char* from, int step, int bytes) { return from + ctc_wide(step, bytes); }
CTC_FN CTC_DEVICE char* ctc_on(CTC_DEVICE char* from, int step, int bytes) { return from + ctc_wide(step, bytes); }

// Requests the inputs of the steps from `step` on; beyond the last step, the inputs of the last step again.
template <typename M, typename X, int K, int DEPTH, bool POSTERIORS>
CTC_FN void ctc_fetch(CTC_THREAD const ctc_streams<M, K>& at, CTC_THREAD const ctc_tile<M, X, K>& tile, int step, int last,
                      CTC_THREAD ctc_ahead<M, K, DEPTH, POSTERIORS>& ahead) {
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
    if (POSTERIORS) {
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

// Returns 0, but only once the loads of a block of steps have arrived: added to an address, it holds back the next
// block's loads until then. A GPU counts the loads in flight and cannot tell them apart, so waiting for one block
// would also mean waiting for the next, had that been requested already.
template <typename M, int K, int DEPTH, bool POSTERIORS>
CTC_FN int ctc_arrived(CTC_THREAD const ctc_ahead<M, K, DEPTH, POSTERIORS>& ahead) {
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
template <typename M, typename X, int K, int DEPTH, bool POSTERIORS>
CTC_FN void ctc_step(CTC_THREAD const ctc_streams<M, K>& at, CTC_THREAD ctc_tile<M, X, K>& tile, X top, int step, int d,
                     CTC_THREAD const ctc_ahead<M, K, DEPTH, POSTERIORS>& ahead) {
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
    if (POSTERIORS) {
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
template <typename M, typename X, int K, int DEPTH, bool POSTERIORS>
CTC_FN void ctc_steps(CTC_THREAD const ctc_streams<M, K>& at, CTC_THREAD ctc_tile<M, X, K>& tile, X top, int step,
                      CTC_THREAD const ctc_ahead<M, K, DEPTH, POSTERIORS>& ahead) {
  CTC_UNROLL
  for (int d = 0; d < DEPTH; d++) ctc_step<M, X, K, DEPTH, POSTERIORS>(at, tile, top, step, d, ahead);
}

// Steps first to last of a direction. A posterior pass forms posteriors from the states that the other direction kept; a sweep
// keeps states if `keep`. `rounds` is the same for all threads of the block. The states come and go through
// `edges`, of which those of `parity` are current; returns the new parity.
//
// All branches depend only on values that are the same for the whole thread block, in a way that the compiler can
// see. So no shuffle has to reconverge its warp first, and the steps of a block of steps are scheduled together.
//
// A warp with one tile keeps it from round to round, and takes from `edges` only what it shares with the tile below.
template <typename M, typename X, int K, int DEPTH, bool POSTERIORS, typename Edges>
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
  ctc_ahead<M, K, DEPTH, POSTERIORS> even = {}, odd = {};
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
          tile.own_blank[j] = (POSTERIORS || keep) && i >= owned && i <= it.labels;
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
        at.kept_blank = (CTC_DEVICE char*)(row + (POSTERIORS ? it.labels - base : base));
        at.kept_label = (CTC_DEVICE char*)(row + it.width + (POSTERIORS ? it.labels - 1 - base : base));
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
      if (start && step < last) ctc_fetch<M, X, K, DEPTH, POSTERIORS>(at, tile, step, last, even);
      for (int left = blocks; left > 0; left -= 2) {
        ctc_fetch<M, X, K, DEPTH, POSTERIORS>(at, tile, step + DEPTH + ctc_arrived(even), last, odd);
        ctc_steps<M, X, K, DEPTH, POSTERIORS>(at, tile, top, step, even);
        step += DEPTH;
        if (left == 1) {
          // Read these steps once more, from a near cache: copying `odd` to `even` would cost moves in
          // every iteration.
          ctc_fetch<M, X, K, DEPTH, POSTERIORS>(at, tile, step, last, even);
          break;
        }
        ctc_fetch<M, X, K, DEPTH, POSTERIORS>(at, tile, step + DEPTH + ctc_arrived(odd), last, even);
        ctc_steps<M, X, K, DEPTH, POSTERIORS>(at, tile, top, step, odd);
        step += DEPTH;
        ctc_normalise(tile);
      }
      // What is left, up to a block.
      CTC_UNROLL
      for (int d = 0; d < DEPTH; d++) {
        if (step + d < to) ctc_step<M, X, K, DEPTH, POSTERIORS>(at, tile, top, step, d, even);
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

// Both directions of an item: P, and with `keep` the posterior of each state times the mantissa of P (gradient divides
// by the sum of a frame). It stands where the blank of its pair was kept. Every thread returns the same P.
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
  // Candidates have the rows of their utterance.
  i64 first = (p.flags & CTC_CANDIDATES ? (i64)tables[CTC_DISTINCT(p, n)] : n) * p.frames;
  it.emissions = emissions + first * p.entries;
  it.kept = (CTC_DEVICE ctc_words<M>*)kept + (p.flags & CTC_KEEP ? n * p.frames * 2 * it.width : 0);
  it.place = tables + CTC_PLACE(p, n);

  // What the frames were divided by, added up by 64 threads in any block.
  if (at.index < 64u) {
    const CTC_DEVICE M* record = records + first * 3;
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

  // A candidate's entry may count as -inf only because it is far below the entry of another candidate.
  bool spoiled = (p.flags & CTC_CANDIDATES) != 0u && peak > M(0.5f) * M(CTC_FAR_BELOW);
  M loss;
  if (needed == CTC_BAD || spoiled || peak == ctc_real<M>::infinity()) {
    loss = ctc_real<M>::nan();
  } else if (it.frames == 0 && it.labels == 0) {
    loss = M(0);
  } else if ((uint)it.frames < needed) {
    loss = ctc_real<M>::infinity();
  } else {
    bool keep = (p.flags & CTC_KEEP) != 0u;
    ctc_number<M, i64> total;
    if (!ctc_real<M>::near_is_all() && M(it.frames) * peak > M(0.5f) * M(CTC_PATH_LIMIT)) {
      // A copy: the address of `it` itself would keep it out of registers.
      ctc_item<M> far = it;
      total = ctc_run_far<M>(far, edges, keep, at, sums, tops);
    } else {
      total = ctc_run<M, typename ctc_real<M>::near, K, DEPTH>(it, edges, keep, at, sums, tops);
    }
    if (total.e > ctc_zero_below((i64)0)) {
      ctc_add_ln2(log_p, total.e);
      ctc_add(log_p, ctc_log_sum(total.m, M(0)), M(0));
      loss = ctc_loss_of(log_p, it.frames, (p.flags & (CTC_LOGITS | CTC_WEIGHTED)) == CTC_LOGITS);
    } else {
      loss = ctc_real<M>::infinity();
    }
  }
  if (at.index == 0u && p.flags & CTC_CANDIDATES) {
    // Only where the loss is a number other than 0 has log P two parts.
    bool plain = loss != M(0) && ctc_is_finite(loss);
    losses[n] = plain ? log_p.high : M(0) - loss;
    weighted[n] = plain ? log_p.low : M(0);
  } else if (at.index == 0u) {
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
