// Lengths and targets that only the device knows: brought to i64, checked, and made into the tables that the other
// kernels read.
//
//   for each item, a block:
//     good = its length and labels are in range
//     distinct = its classes in the order of their first appearance
//     place[i] = where the class of label i stands in distinct
//     position, end = the labels sorted by class, and where each class ends

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
  // The first position of each label's class, stored in `end` until `end` receives its own values.
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
