// The best path of an item, a block: the recursion of the lattice with the largest in place of the sum, in f64. CUDA only,
// since Metal has no f64.
//
//   for each segment of frames but the last: keep the states before it, and go through it
//   for each segment, from the last to the first:
//     from the states before it, go through it once more, and note where each state came from
//     from its end to its start, follow these notes: the state of each frame
//   score[t] = the log-probability of that state's class
//
// The CPU does the same sums in the same order, and of equal ones takes the same: the path is the CPU's, bit for bit
// (from logits: but for the rounding of their log-softmax).
//
// What it costs: latency. A frame is a read of shared memory, a chain of 4 dependent operations and a barrier. The entries
// of several frames are read at once. A target with more pairs than a block has threads takes several in turn. An item of one
// segment goes through its frames once, others nearly twice, the second time with the pairs that can reach the path's end.
//
// Memory of an item: 16 bytes for each pair and segment, and a byte for each frame of a segment and each pair that can be
// on the path in it; 32 bytes for each pair, in shared memory if they fit.

// Frames of a segment.
#define CTC_SEGMENT 2048
// Frames whose entries are read at once: 8, in f64 4.
#define CTC_BEST_DEPTH (32 / (int)sizeof(M))
// Frames and pairs of the notes that are brought to shared memory at once.
#define CTC_NOTES 32

// Where a state came from: a label from itself (0), from its blank (1), or from the label before it (2); and 4 if
// the blank came from the label before it.
typedef unsigned char ctc_note;

template <typename E, typename M> struct ctc_best_item {
  // Its entries at frame 0.
  const E* x;
  // Of logits: the largest of each row, and the sum of its exponentials. A row's largest is taken off its entries, so that
  // what rows have in common costs sums no digits.
  const M* stats;
  bool logits;
  const uint* target;
  i64 x_frame, x_class;
  int frames, labels;
  uint blank;
};

// Where paths end: in a pair from `first` to `last`, after `frames` frames.
struct ctc_goal {
  int first, last, frames;
};
// The pairs in which a path from the start to there can be at frame t.
CTC_FN int ctc_lowest_pair(ctc_goal goal, int t) { return ctc_max(goal.first - (goal.frames - 1 - t), 0); }
CTC_FN int ctc_highest_pair(ctc_goal goal, int t) { return ctc_min(goal.last, t); }

// Pair i at one frame. A row has `width` blanks, then as many labels.
template <typename Rows>
CTC_FN ctc_note ctc_best_step(Rows old, Rows now, int width, int i, bool skip, double y_blank, double y) {
  double none = -ctc_real<double>::infinity();
  double blank = old[i], label = old[width + i];
  double before = i > 0 ? old[width + i - 1] : none;
  double jump = skip ? before : none;
  bool to_blank = before > blank, from_blank = blank > label;
  double best = from_blank ? blank : label;
  bool from_jump = jump > best;
  now[i] = (to_blank ? before : blank) + y_blank;
  now[width + i] = (from_jump ? jump : best) + y;
  return (ctc_note)((from_jump ? 2 : from_blank ? 1 : 0) + (to_blank ? 4 : 0));
}

// Frames first to last. `rows` holds two rows, of which that of `parity` is current; returns the new parity. With NOTE,
// `notes` gets a row of `window` for each frame, from pair `base` on. Sets `undefined` where an entry is NaN or +inf.
// With ONE, a thread has one pair at most.
template <typename E, typename M, bool NOTE, bool ONE, typename Rows>
CTC_FN uint ctc_best_frames(const ctc_best_item<E, M>& it, Rows rows, uint parity, int first, int last, ctc_goal goal,
                            ctc_note* notes, i64 window, int base, bool& undefined, ctc_thread at) {
  double none = -ctc_real<double>::infinity(), infinity = ctc_real<double>::infinity();
  int width = it.labels + 1, i = (int)at.index, threads = (int)at.threads;
  const E* of_blank = it.x + it.blank * it.x_class;
  // The thread's first pair, whose class does not change. Behind the last label there are no states.
  bool label = i < it.labels;
  bool skip = label && i > 0 && it.target[i] != it.target[i - 1];
  const E* of_label = label ? it.x + it.target[i] * it.x_class : of_blank;
  for (int block = first; block < last; block += CTC_BEST_DEPTH) {
    E y_blank[CTC_BEST_DEPTH], y_label[CTC_BEST_DEPTH];
    M largest[CTC_BEST_DEPTH];
    CTC_UNROLL
    for (int d = 0; d < CTC_BEST_DEPTH; d++) {
      i64 t = ctc_min(block + d, last - 1);
      y_blank[d] = of_blank[t * it.x_frame];
      y_label[d] = of_label[t * it.x_frame];
      largest[d] = it.logits ? it.stats[2 * t] : M(0);
    }
    CTC_UNROLL
    for (int d = 0; d < CTC_BEST_DEPTH; d++) {
      int t = block + d;
      if (t >= last) break;
      Rows old = rows + (i64)parity * 2 * width, now = rows + (i64)(parity ^ 1u) * 2 * width;
      int low = ctc_lowest_pair(goal, t), high = ctc_highest_pair(goal, t);
      ctc_note* row = notes + (NOTE ? (t - first) * window : 0);
      double top = largest[d];
      double blank = ctc_widen(y_blank[d]) - top;
      double y = label ? ctc_widen(y_label[d]) - top : none;
      undefined = undefined || !(blank < infinity) || !(y < infinity);
      if (i >= low && i <= high) {
        ctc_note note = ctc_best_step(old, now, width, i, skip, blank, y);
        if (NOTE) row[i - base] = note;
      }
      // The pairs that a block of this size takes in later turns.
      int j = ONE ? high + 1 : i + threads;
      if (!ONE && j < low) j += (low - j + threads - 1) / threads * threads;
      for (; j <= high; j += threads) {
        bool more = j < it.labels;
        double later = more ? ctc_widen(it.x[t * it.x_frame + it.target[j] * it.x_class]) - top : none;
        undefined = undefined || !(later < infinity);
        bool leap = more && it.target[j] != it.target[j - 1];
        ctc_note note = ctc_best_step(old, now, width, j, leap, blank, later);
        if (NOTE) row[j - base] = note;
      }
      parity ^= 1u;
      ctc_barrier();
    }
  }
  return parity;
}

// The states of frames first to last, from the last on: of `path`, its pair and whether it is in the pair's label. Leaves
// there what it was before the first. Threads bring the notes to `tile` together, and the first follows them.
CTC_FN void ctc_follow(const ctc_note* notes, i64 window, int base, int first, int last, uint* states,
                       CTC_SHARED int* path, CTC_SHARED ctc_note* tile, ctc_thread at) {
  for (int end = last; end > first; end -= CTC_NOTES) {
    int pair = path[0];
    bool in_label = path[1] != 0;
    for (int k = (int)at.index; k < CTC_NOTES * CTC_NOTES; k += (int)at.threads) {
      int t = end - 1 - k / CTC_NOTES, i = pair - k % CTC_NOTES;
      // A path goes back by a pair a frame, at most.
      if (t >= first && i >= base && i <= t && k % CTC_NOTES <= k / CTC_NOTES) tile[k] = notes[(t - first) * window + i - base];
    }
    ctc_barrier();
    if (at.index == 0u) {
      int from = pair;
      for (int k = 0; k < CTC_NOTES && end - 1 - k >= first; k++) {
        states[end - 1 - k] = 2u * (uint)pair + (in_label ? 1u : 0u);
        ctc_note note = tile[k * CTC_NOTES + from - pair];
        if (in_label ? (note & 3) == 2 : (note & 4) != 0) {
          pair -= 1;
          in_label = true;
        } else if (in_label && (note & 3) == 1) {
          in_label = false;
        }
      }
      path[0] = pair;
      path[1] = in_label ? 1 : 0;
    }
    ctc_barrier();
  }
}

// Whether the item has a path, which is then in `states`. `kept` has 2 (U + 1) numbers for each segment but the first and
// the last.
template <typename E, typename M, bool ONE, typename Rows>
CTC_FN bool ctc_best_states(const ctc_best_item<E, M>& it, Rows rows, double* kept, ctc_note* notes, i64 window, uint* states,
                            CTC_SHARED int* path, CTC_SHARED ctc_note* tile, CTC_SHARED float* shared, ctc_thread at) {
  double none = -ctc_real<double>::infinity();
  int width = it.labels + 1;
  int segments = (it.frames - 1) / CTC_SEGMENT + 1;
  bool undefined = false;
  ctc_goal goal;
  goal.first = ctc_max(it.labels - 1, 0);
  goal.last = it.labels;
  goal.frames = it.frames;
  for (int i = (int)at.index; i < 4 * width; i += (int)at.threads) rows[i] = i == 0 ? 0.0 : none;
  ctc_barrier();
  uint parity = 0u;
  for (int a = 0; a < segments - 1; a++) {
    for (int i = (int)at.index; a > 0 && i < 2 * width; i += (int)at.threads)
      kept[(i64)(a - 1) * 2 * width + i] = rows[(i64)parity * 2 * width + i];
    parity = ctc_best_frames<E, M, false, ONE>(it, rows, parity, a * CTC_SEGMENT, (a + 1) * CTC_SEGMENT, goal, notes, 0, 0, undefined, at);
  }
  for (int a = segments - 1; a >= 0; a--) {
    int first = a * CTC_SEGMENT, last = ctc_min(first + CTC_SEGMENT, it.frames);
    if (a < segments - 1) {
      for (int i = (int)at.index; i < 2 * width; i += (int)at.threads) {
        rows[i] = a > 0 ? kept[(i64)(a - 1) * 2 * width + i] : i == 0 ? 0.0 : none;
        rows[2 * width + i] = none;
      }
      parity = 0u;
      ctc_barrier();
    }
    int base = ctc_lowest_pair(goal, first);
    parity = ctc_best_frames<E, M, true, ONE>(it, rows, parity, first, last, goal, notes, window, base, undefined, at);
    if (a == segments - 1) {
      // All entries have been seen. Of two equal ends, the last label.
      if (ctc_row_sum(undefined ? 1.0f : 0.0f, true, at, shared) > 0.0f) return false;
      Rows row = rows + (i64)parity * 2 * width;
      double blank = row[it.labels], label = it.labels > 0 ? row[width + it.labels - 1] : none;
      bool in_label = it.labels > 0 && label >= blank;
      if ((in_label ? label : blank) == none) return false;
      if (at.index == 0u) {
        path[0] = it.labels - (in_label ? 1 : 0);
        path[1] = in_label ? 1 : 0;
      }
      ctc_barrier();
    }
    ctc_follow(notes, window, base, first, last, states, path, tile, at);
    goal.first = goal.last = path[0];
    goal.frames = first;
  }
  return true;
}

// One block an item. `tables` has N numbers of frames, N of labels, and N · S labels. `rows` has 4 (S + 1) numbers for
// each item if `spilled`, and those in `shared_rows` are not used. `found` gets 1 where there is a path; all that is
// undefined or impossible is left to the host, which says why.
template <typename M, typename E>
CTC_FN void ctc_best_path_body(CTC_CONSTANT const ctc_sizes& p, const E* input, const uint* tables, const M* stats,
                               double* rows, double* kept, ctc_note* notes, i64 window, uint spilled, uint* states,
                               M* scores, uint* found, CTC_SHARED double* shared_rows, CTC_SHARED int* path,
                               CTC_SHARED ctc_note* tile, CTC_SHARED float* shared, ctc_thread at) {
  i64 n = (i64)at.block;
  bool logits = (p.flags & CTC_LOGITS) != 0u;
  i64 segments = (p.frames - 1) / CTC_SEGMENT + 1, width = p.labels + 1;
  ctc_best_item<E, M> it;
  it.logits = logits;
  it.stats = stats + (logits ? 2 * n * p.frames : 0);
  it.x = input + p.x_offset + n * p.x_item;
  it.x_frame = p.x_frame;
  it.x_class = p.x_class;
  it.target = tables + 2 * p.batch + n * p.labels;
  it.frames = (int)tables[n];
  it.labels = (int)tables[p.batch + n];
  it.blank = p.blank;
  kept += n * ctc_max(segments - 2, (i64)0) * 2 * width;
  notes += n * ctc_min(p.frames, (i64)CTC_SEGMENT) * window;
  states += n * p.frames;
  scores += n * p.frames;
  bool good = it.frames > 0;
  if (good && spilled != 0u)
    good = ctc_best_states<E, M, false>(it, rows + n * 4 * width, kept, notes, window, states, path, tile, shared, at);
  else if (good && it.labels < (int)at.threads)
    good = ctc_best_states<E, M, true>(it, shared_rows, kept, notes, window, states, path, tile, shared, at);
  else if (good)
    good = ctc_best_states<E, M, false>(it, shared_rows, kept, notes, window, states, path, tile, shared, at);
  bool undefined = false;
  for (i64 t = at.index; good && t < it.frames; t += at.threads) {
    uint state = states[t];
    uint c = state % 2u == 0u ? it.blank : it.target[state / 2u];
    M y = ctc_widen(it.x[t * it.x_frame + c * it.x_class]);
    if (logits) {
      const M* stat = it.stats + 2 * t;
      undefined = undefined || !(stat[1] > M(0) && stat[1] < ctc_real<M>::infinity() && stat[0] < ctc_real<M>::infinity());
      y = (y - stat[0]) - ctc_log_sum(stat[1], M(0));
    }
    scores[t] = y;
  }
  bool spoilt = ctc_row_sum(undefined ? 1.0f : 0.0f, true, at, shared) > 0.0f;
  if (at.index == 0u) found[n] = good && !spoilt ? 1u : 0u;
}
