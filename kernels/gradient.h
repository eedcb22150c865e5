// The gradient, a row a frame, written once.
//
//   for each frame of each item, a warp or a block:
//     dense part of every class: softmax (logits), exp(x) (PyTorch's gradient of log-probabilities), or nothing
//     for each class of the target, and the blank:
//       less the posteriors of its states, divided by the sum of all posteriors of the frame
//     all times the upstream gradient of the item

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

// Vectors of a row that are on their way for each lane, and entries, at least a vector of them, where these are read one
// by one: each then takes a register of its own. With 8 entries of f32 registers spill, which slows whole vectors, too.
#define CTC_VECTORS_ON_THEIR_WAY 4
#define CTC_ENTRIES_ON_THEIR_WAY 4

// Vectors of a row: each is asked for AHEAD turns before it is used.
template <int PART, bool PACKED, typename M, typename E>
CTC_FN void ctc_dense_vectors(const CTC_DEVICE E* x, i64 stride, CTC_DEVICE E* y, uint count, uint lane, uint lanes,
                              M largest, M factor) {
  const int N = ctc_vector<E>::COUNT;
  const uint AHEAD = PACKED ? CTC_VECTORS_ON_THEIR_WAY : (CTC_ENTRIES_ON_THEIR_WAY + N - 1) / N;
  const bool READ = PART != CTC_CONSTANT_PART;
  i64 from = (i64)lanes * N * stride, to = (i64)lanes * N;
  x += (i64)lane * N * stride;
  y += (i64)lane * N;
  ctc_chunk<E, PACKED> chunk[AHEAD];
  CTC_UNROLL
  for (uint d = 0u; d < AHEAD; d++) {
    if (READ && lane + d * lanes < count) ctc_read(x + d * from, stride, chunk[d]);
  }
  for (uint i = lane; i < count; i += AHEAD * lanes) {
    x += AHEAD * from;
    CTC_UNROLL
    for (uint d = 0u; d < AHEAD; d++) {
      M v[N];
      CTC_UNROLL
      for (int j = 0; j < N; j++) v[j] = M(0);
      if (READ) ctc_values(chunk[d], v);
      if (READ && i + (AHEAD + d) * lanes < count) ctc_read(x + d * from, stride, chunk[d]);
      CTC_UNROLL
      for (int j = 0; j < N; j++) v[j] = ctc_dense<PART, M>(v[j], largest, factor);
      if (i + d * lanes < count) ctc_store_once((CTC_DEVICE uint4*)(y + d * to), ctc_vector<E>::put(v));
    }
    y += AHEAD * to;
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

// Overwrites the gradient of the target's classes: one class per lane, four classes at a time. A class takes three
// dependent reads; those of four classes are in flight together.
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
  // `rank`: the place of each label's posterior. `span`: where the posteriors of each class begin (low 16 bits)
  // and end (high 16 bits).
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

// Sums the posteriors of a short row's blanks and of its labels, per lane, and stores each label's posterior beside
// the others of its class. Each of `pairs` holds a blank and a label: in an early frame the label below the blank;
// in a late frame the label above it, with the pairs in reverse order.
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
  // Lanes per class: the largest power of two with which all classes fit into the warp at once, at least 1.
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
