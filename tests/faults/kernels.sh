# For tools/softgpu/mutate.sh: faults in the kernels, each of which tests/it/kernels.rs, device.rs or emissions.rs must
# notice when it runs them on the CPU. CTC_KERNEL_TESTS is that test program, built with CTC_SOFTGPU_LIB; FAULTS_OF is
# `cuda` or `metal`, or empty for both.
# The tests of tests/it/device.rs and emissions.rs that need f32 alone.
DEVICE="device::alignments_of_f32 device::long device::items device::scores device::a_candidate emissions::a_path_of_f32"
program() { CTC_SOFTGPU_KERNELS=$1 "$CTC_KERNEL_TESTS" --test-threads 2 kernels:: $DEVICE; }
lib() { echo "$TMPDIR/ctc-faults-$1.so"; }
cuda() { kernelc kernels/ctc.cu -D CTC_F32_ALONE=1 -o "$(lib cuda)" && program "$(lib cuda)"; }
metal() { kernelc src/gpu/metal.rs -D CTC_F32_ALONE=1 -o "$(lib metal)" && program "$(lib metal)"; }
each() { # COMMAND... with the test's name put at the end of what is called
  local side
  for side in ${FAULTS_OF:-cuda metal}; do "$@" "$side"; done
}
plant() { fault "$5: $1" "$2" "$3" "$5" "$4"; }
both() { each plant "$@"; }
only() { [[ ${FAULTS_OF:-$1} != "$1" ]] || plant "${@:2}" "$1"; }
each baseline

A=kernels/number.h C=kernels/common.h P=kernels/prepare.h R=kernels/rows.h G=kernels/gather.h L=kernels/lattice.h D=kernels/gradient.h B=kernels/best_path.h
RACE='race (in|between)|uninitialised' DIVERGED='diverged|leaves it out|takes no part|did not reach' ALIGNED='align' WRONG='entries are wrong|assertion|panicked'
# order of memory
both "no barrier after the first states" $L 's/  ctc_barrier\(\);\n  ctc_pair<M> log_p;/  ctc_pair<M> log_p;/; s/  ctc_barrier();\n  ctc_pair<M> log_p;/  ctc_pair<M> log_p;/' "$RACE"
both "no barrier between two rounds of frames" $L 's/    parity ^= 1u;\n    ctc_barrier();/    parity ^= 1u;/' "$RACE"
both "no barrier before P is read" $L 's/  ctc_barrier();\n  ctc_number<M, i64> p = /  ctc_number<M, i64> p = /' "$RACE"
both "no barrier when warps meet in a row" $C 's/shared\[at.warp\] = x;\n  ctc_barrier();/shared[at.warp] = x;/' "$RACE"
both "no barrier before the first warp adds up a row" $G 's/s.others;\n  }\n  ctc_barrier();/s.others;\n  }/' "$RACE"
both "no barrier before a row's two sums meet" $C 's/shared\[2u \* at.warp + 1u\] = y;\n  }\n  ctc_barrier();/shared[2u * at.warp + 1u] = y;\n  }/' "$RACE"
both "no barrier before a short row's posteriors are read" $D 's/lane, blank, rest);\n      ctc_simd_barrier();/lane, blank, rest);/' "$RACE"
both "no barrier behind a short row" $D 's/take the place of these.\n      ctc_simd_barrier();/take the place of these./' "$RACE"
both "no barrier before spans" $D 's/own.span\[c\] = 0u;\n  ctc_simd_barrier();/own.span[c] = 0u;/' "$RACE"
both "all items keep their states in one place" $L 's/p.flags & CTC_KEEP ? n \* p.frames \* 2 \* it.width : 0/0/' "$RACE"
both "tiles own a pair twice" $L 's/index \* stride + CTC_HALO : 0/index * stride + CTC_HALO - 1 : 0/' "$RACE|$WRONG"
both "more frames than the halo serves" $L 's/it.middle : CTC_HALO;/it.middle : CTC_HALO + 4;/' "$RACE|$WRONG"
# threads
both "the wrong lane has no neighbour" $L 's/tile.edge = lane == 0u/tile.edge = lane == 1u/' "$WRONG"
only cuda "a shuffle in the wrong direction" kernels/platform_cuda.h 's/__shfl_up_sync(0xffffffffu, x, 1u)/__shfl_down_sync(0xffffffffu, x, 1u)/' "$WRONG"
only metal "a shuffle in the wrong direction" kernels/platform_metal.h 's/simd_shuffle_up(x, /simd_shuffle_down(x, /g' "$WRONG"
only metal "half of an exponent is shuffled" kernels/platform_metal.h 's/uint high = simd_shuffle_up(uint(u64(x) >> 32), ushort(1))/uint high = uint(u64(x) >> 32)/' "$WRONG"
only metal "a barrier with mem_none" kernels/platform_metal.h 's/threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device)/threadgroup_barrier(mem_flags::mem_none)/' "$RACE"
both "a sum over half a warp" $D 's/\n    sum = ctc_warp_sum(sum);/\n    if (lane < 16u) sum = ctc_warp_sum(sum);/' "$DIVERGED"
both "a barrier that some threads do not reach" $L 's/    ctc_warp_sum(scale);/    ctc_barrier(); ctc_warp_sum(scale);/' "$DIVERGED"
both "lanes leave before the row is done" $G 's/  M poison = M(0), largest = lowest;/  M poison = M(0), largest = lowest; if (lane > used) return;/' "$DIVERGED"
# ranges and offsets
both "the last frame first, off by one" $L 's/direction == 0u ? 0 : it.frames - 1;/direction == 0u ? 0 : it.frames;/' "out of bounds|$RACE|$WRONG"
both "a frame range that is one short" $L 's/direction, midway, it.frames, rounds/direction, midway, it.frames - 1, rounds/' "$WRONG|$RACE"
both "a state behind the last" $L 's/if (i >= shared \&\& i <= it.labels) {/if (i >= shared \&\& i <= it.labels + 1) {/' "out of bounds|$RACE|$WRONG"
both "the input's offset is lost" $G 's/p.x_offset + t \* p.x_frame/t * p.x_frame/g' "$WRONG"
both "the input's offset is lost in a long row of the gradient" $D 's/p.x_offset + t \* p.x_frame/t * p.x_frame/g' "$WRONG"
both "the input's offset is lost in a short row of the gradient" $D 's/p.x_offset + start \* p.x_frame/start * p.x_frame/g' "$WRONG"
both "an item's emissions are another's" $L 's/emissions + first \* p.entries/emissions/' "$WRONG"
both "frames behind the end count" $D 's/bool used_frame = t < /bool used_frame = t <= /' "$WRONG"
both "frames behind the end of a short row's item count" $D 's/if (none || t >= frames)/if (none || t > frames)/' "$WRONG|$RACE"
both "a frame is left out of those of a warp" $G 's/ctc_min(frames - t, run)/ctc_min(frames - t, run - (run > 1 ? 1 : 0))/' "$WRONG|$RACE"
both "a warp's first frame for all" $D 's/      pairs += 2 \* (p.labels + 1);\n//' "$WRONG|$RACE"
both "warps in each other's place" $D 's/posteriors + at.warp \* CTC_SHORT_LABELS/posteriors/' "$RACE"
both "the lanes of a class all take the same" $D 's/(span \& 0xffffu) + mine/(span \& 0xffffu)/' "$WRONG"
both "the label above for the label below" $D 's/int down = early ? 1 : 0/int down = 0/' "$WRONG|out of bounds|$RACE"
both "a short row's blank is left out" $D 's/if (first + c == p.blank) sum = blank;//' "$WRONG"
both "the tables of the first item for all" $L 's/tables + CTC_PLACE(p, n);\n\n/tables + CTC_PLACE(p, 0);\n\n/' "$WRONG"
both "a label is followed unchecked" $P 's/label >= 0 \&\& label < p.classes/label >= 0/' "out of bounds|$WRONG"
both "two labels in one place" $P 's/place\[j\] == place\[i\] \&\& j < i/place[j] == place[i] \&\& j < i - 1u/' "$RACE|$WRONG"
both "frames behind the last are asked for" $L 's/ctc_min(step + d, last - 1)/step + d/' "out of bounds|$RACE|$WRONG"
both "one block of steps twice, the other never" $L 's/tile, top, step, odd)/tile, top, step, even)/' "$WRONG"
both "the step behind the whole blocks is left out" $L 's/step + d < to)/step + d < to - 1)/' "$WRONG|$RACE"
both "the last steps with what the block before read" $L 's/          ctc_fetch<M, X, K, DEPTH, POSTERIORS>(at, tile, step, last, even);\n          break/          break/' "$WRONG"
both "a lane reads what another writes" $L 's/if (tile.own_blank\[j\]) {/if (true) {/' "out of bounds|$RACE"
both "a tile does not take what it shares" $L 's/(start || i < owned)/start/' "$WRONG"
both "a tile passes on too little" $L 's/(index + 1) \* stride : owned/(index + 1) * stride + 1 : owned/' "$RACE|$WRONG"
both "posteriors of labels from another place" $D 's/early ? 3 : 1/early ? 1 : 1/' "$WRONG"
both "the middle frame counts as late" $D 's/(p, n)\] + 1) \/ 2/(p, n)]) \/ 2/' "$WRONG"
both "the middle frame of a short row counts as late" $D 's/middle = (frames + 1) \/ 2/middle = frames \/ 2/' "$WRONG"
both "states are kept where the walk does not look" $L 's/row + (POSTERIORS ? it.labels - base : base)/row + (POSTERIORS ? it.labels - base : base + 1)/' "out of bounds|$RACE|$WRONG"
# rows in vectors
both "a gradient's first entries are left out" $D 's/  ctc_dense_entries<PART, 1, M, E>(x, stride, y, 0u, head, lane/  ctc_dense_entries<PART, 1, M, E>(x, stride, y, head, head, lane/' "$WRONG"
both "a gradient's last entries are left out" $D 's/head + vectors \* N, classes, lane/classes, classes, lane/' "$WRONG"
both "a row's last entries are left out" $G 's/x, p.x_class, rest, classes/x, p.x_class, classes, classes/g' "$WRONG"
both "a row is read in vectors from anywhere" $G 's/if (phase == 0u \&\& /if (/' "$ALIGNED"
both "a gradient's row is read in vectors from anywhere" $D 's/if (stride == 1 \&\& (x_phase + head) % N == 0u)/if (stride == 1)/' "$ALIGNED"
both "a gradient's row is written in vectors from anywhere" $D 's/uint head = (N - y_phase) % N;/uint head = 0u;/' "$ALIGNED"
both "the second vector is the first" $G 's/ctc_read_once(x + step, stride, b)/ctc_read_once(x, stride, b)/g' "$WRONG"
both "the vectors of a gradient's row that come first are one" $D 's/ctc_read(x + d \* from, stride, chunk\[d\]);\n  }/ctc_read(x, stride, chunk[d]);\n  }/' "$WRONG"
both "the vectors that follow are one" $D 's/(AHEAD + d) \* lanes < count) ctc_read(x + d \* from/(AHEAD + d) * lanes < count) ctc_read(x/' "$WRONG"
both "a class of the target has its first label alone" $D 's/      sum\[j\] += ctc_class_sum[^;]*;\n//' "$WRONG"
both "classes behind the last are written" $D 's/      if (k + j \* lanes < used)\n//' "$RACE"
both "long targets over few classes are left out" $D 's/  if (p.labels > CTC_SHORT_LABELS)/  if (false)/' "$WRONG|uninitialised|$RACE"
both "a row's classes are one behind the other" $R 's/to.entries\[b\] = x\[b \* stride\]/to.entries[b] = x[b]/' "$WRONG|out of bounds"
both "NaN in a class that no target uses is passed over" $G 's/  if (s.largest != s.largest) s.others = s.largest;//' "$WRONG"
# arithmetic
# What -fmad=false keeps nvcc from; clang would not fuse a product that is used twice.
both "the rounding of a product counts twice" $A 's/ctc_real<M>::ln2(), lost)));/ctc_real<M>::ln2(), lost + lost)));/' "$WRONG"
both "a repeat without its blank" $L 's/tile.skip\[j\] = here != before ? X(0) : zero/tile.skip[j] = X(0)/' "$WRONG"
both "mantissas are not brought back" $L 's/        ctc_normalise(tile);\n//' "$WRONG"
both "no way for entries far apart" $L 's/peak > M(CTC_PATH_LIMIT)/peak > ctc_real<M>::infinity()/' "$WRONG"
both "the sign of a far difference" $A 's/if (d < 0.0f) r = -r;//' "$WRONG"
both "the largest entry is left out" $G 's/if (v\[b\] == reference) s.ones += M(1);/if (v[b] == reference) s.ones += M(0);/' "$WRONG"
both "NaN in a short row is passed over" $G 's/s.others = top != top ? top : M(0);/s.others = M(0);/' "$WRONG"
both "the frames' scales are not added" $L 's/ctc_add(log_p, sums\[4\], sums\[5\]);//' "$WRONG"
both "the weight of the first class for all" $G 's/weights.of_class\[c\[j\]\]/weights.of_class[0]/' "$WRONG"
both "the blank is charged for its frame" $G 's/(c\[j\] == p.blank ? M(0) : weights.of_label)/weights.of_label/' "$WRONG"
both "the delay penalty of the frame before" $G 's/-weights\[p.classes\] \* M(t)/-weights[p.classes] * M(t - 1)/' "$WRONG"
both "a weighted P above 1 counts as 1" $L 's/(p.flags \& (CTC_LOGITS | CTC_WEIGHTED)) == CTC_LOGITS/(p.flags \& CTC_LOGITS) != 0u/' "$WRONG"
both "NaN is passed over" $G 's/if (!(v\[j\] < ctc_real<M>::infinity())) poison = ctc_real<M>::infinity();//' "$WRONG"
# candidates
both "candidates have emissions of their own" $L 's/first = (p.flags & CTC_CANDIDATES ? (i64)tables\[CTC_DISTINCT(p, n)\] : n)/first = n/' "out of bounds|$WRONG"
both "an entry far below another candidate's counts as -inf" $L 's/bool spoiled = [^;]*;/bool spoiled = false;/' "$WRONG"
both "the second part of a score is lost" $L 's/plain ? log_p.low : M(0)/M(0)/' "$WRONG"
both "an impossible candidate has its loss for a score" $L 's/plain ? log_p.high : M(0) - loss/plain ? log_p.high : loss/' "$WRONG"
# best paths
only cuda "of equal ways the one from the blank" $B 's/from_blank = blank > label/from_blank = blank >= label/' "$WRONG"
only cuda "of equal ways the one from the label before" $B 's/from_jump = jump > best/from_jump = jump >= best/' "$WRONG"
only cuda "of equal ends the blank" $B 's/label >= blank/label > blank/' "$WRONG"
only cuda "a repeat without its blank on the best path" $B 's/jump = skip ? before : none/jump = before/' "$WRONG"
only cuda "pairs of later turns without a leap" $B 's/ctc_best_step(old, now, width, j, leap,/ctc_best_step(old, now, width, j, false,/' "$WRONG"
only cuda "no barrier between two frames" $B 's/      parity ^= 1u;\n      ctc_barrier();/      parity ^= 1u;/' "$RACE"
only cuda "no barrier before notes are followed" $B 's/tile\[k\] = notes\[[^;]*;\n    }\n    ctc_barrier();/tile[k] = notes[(t - first) * window + i - base];\n    }/' "$RACE"
only cuda "the states of another segment are kept" $B 's/kept\[(i64)(a - 1) \* 2 \* width + i\] : i == 0/kept[(i64)a * 2 * width + i] : i == 0/' "$WRONG|out of bounds|$RACE"
only cuda "states of a later segment stay behind" $B 's/        rows\[2 \* width + i\] = none;\n//' "$WRONG|$RACE"
only cuda "a segment's path ends a frame early" $B 's/goal.frames = first;/goal.frames = first - 1;/' "$WRONG|$RACE|out of bounds"
only cuda "the path's lowest pair is one too high" $B 's/ctc_max(goal.first - (goal.frames - 1 - t), 0)/ctc_max(goal.first - (goal.frames - 1 - t) + 1, 0)/' "$WRONG|$RACE|out of bounds"
only cuda "NaN is passed over on the best path" $B 's/ || !(y < infinity);/;/' "$WRONG"
only cuda "an item's offset is lost on the best path" $B 's/input + p.x_offset + n \* p.x_item/input + n * p.x_item/' "$WRONG"
only cuda "all items have one place for their states" $B 's/rows + n \* 4 \* width, kept/rows, kept/' "$RACE|$WRONG"
only cuda "a label's score is the blank's" $B 's/uint c = state % 2u == 0u ? it.blank : it.target\[state \/ 2u\]/uint c = it.blank/' "$WRONG"
