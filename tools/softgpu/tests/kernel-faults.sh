# For mutate.sh: faults in the sample's kernels. Most are in the shared header and are tried on both sides.
lib() { echo "$TMPDIR/sample-$1.so"; }
metal() { kernelc src/msl.rs -o "$(lib metal)" && python3 "$SOFTGPU/tests/logscan.py" "$(lib metal)"; }
cuda() { kernelc kernels/logscan.cu -o "$(lib cuda)" && python3 "$SOFTGPU/tests/logscan.py" "$(lib cuda)"; }
msl() { kernelc --check src/msl.rs; }
both() { fault "metal: $1" "${@:2:2}" metal "$4"; fault "cuda: $1" "${@:2:2}" cuda "$4"; }
baseline metal; baseline cuda; baseline msl

H=kernels/dp_math.h M=kernels/logscan.metal C=kernels/logscan.cu
# order of memory
both "no barrier before the partials are read" $H 's/    DP_BARRIER();\n    if (sg/    if (sg/' 'race (in|between)|uninitialised'
both "no barrier after the partials are scanned" $H 's/}\n    DP_BARRIER();/}/' 'race (in|between)'
both "no barrier before the next pass" $H 's/    DP_BARRIER();\n  }/  }/' 'race (in|between)'
fault "metal: a barrier with mem_none" kernels/prelude_metal.h 's/mem_threadgroup)/mem_none)/' metal 'race (in|between)|uninitialised'
fault "cuda: a warp barrier for a block's" kernels/prelude_cuda.h 's/__syncthreads()/__syncwarp()/' cuda 'race (in|between)|uninitialised'
both "every SIMD group stores to one place" $H 's/partial\[sg\] = v/partial[0] = v/' 'race (in|between)'
both "all lanes store the partial" $H 's/if (lane == DP_SIMD - 1u) partial/partial/' 'race (in|between)'
both "rows overlap" $H 's/if (i < n) y\[i\]/if (i <= n) y[i]/' 'race between threadgroups|out of bounds'
fault "metal: rows overlap by their offset" $M 's/ulong(row) \* n;/ulong(row) * (n - 1u);/' metal 'race between threadgroups'
fault "cuda: rows overlap by their offset" $C 's/size_t(blockIdx.x) \* n;/size_t(blockIdx.x) * (n - 1u);/' cuda 'race between threadgroups'
fault "metal: a sum without an atomic" $M 's/atomic_fetch_add_explicit(total, s, memory_order_relaxed)/((device float*)total)[0] += s/' metal 'race between threadgroups'
fault "cuda: a sum without an atomic" $C 's/atomicAdd(total, s)/total[0] += s/' cuda 'race between threadgroups'
# control flow
both "a SIMD operation in a branch" $H 's/    v = dp_simd_scan(v, lane);\n    if/    if (i < n) v = dp_simd_scan(v, lane);\n    if/' diverged
both "a barrier in a branch" $H 's/if (i < n) y\[i\] = T(dp_logaddexp(before, v));/if (i < n) { y[i] = T(dp_logaddexp(before, v)); DP_BARRIER(); }/' diverged
both "an early return" $H 's/    uint i = base + tid;/    uint i = base + tid; if (i >= n) return;/' diverged
fault "cuda: a mask that leaves lanes out" kernels/prelude_cuda.h 's/0xffffffffu, v, d/0x0000ffffu, v, d/' cuda 'leaves it out'
# memory
both "a load past the row" $H 's/i < n ? float(x\[i\])/i <= n ? float(x[i])/' 'out of bounds|wrong'
both "a store before the row" $H 's/y\[i\] = T/y[i - 1u] = T/' 'out of bounds|race (in|between)'
both "unwritten partials" $H 's/lane < n_sg ? partial\[lane\] : DP_NEG_INF/partial[lane]/' uninitialised
fault "metal: 16 partials for 32 SIMD groups" $M 's/partial\[DP_SIMD\]/partial[DP_SIMD \/ 2u]/' metal "out of bounds.*'partial'"
fault "cuda: 16 partials for 32 SIMD groups" $C 's/partial\[DP_SIMD\]/partial[DP_SIMD \/ 2u]/' cuda "out of bounds.*'partial'"
fault "metal: dynamic memory's end" $M 's/scratch\[sg\]/scratch[sg + 4u]/' metal 'out of bounds'
fault "cuda: dynamic memory's end" $C 's/scratch\[threadIdx.x \/ DP_SIMD\]/scratch[4u]/' cuda 'out of bounds'
# values
both "the wrong lane stores the partial" $H 's/lane == DP_SIMD - 1u/lane == 0u/' wrong
both "a scan one step short" $H 's/d < DP_SIMD;/d < DP_SIMD \/ 2u;/' wrong
both "no care for -inf" $H 's/return lo == DP_NEG_INF ? hi : hi/return hi/' wrong
both "a carry that starts at 0" $H 's/carry = DP_NEG_INF/carry = 0.0f/' wrong
fault "metal: a shuffle down for up" kernels/prelude_metal.h 's/simd_shuffle_up/simd_shuffle_down/' metal wrong
fault "cuda: a shuffle of the wrong width" kernels/prelude_cuda.h 's/(0xffffffffu, v, d)/(0xffffffffu, v, d, 16)/' cuda wrong
# what is not MSL
fault "msl: log1p" $H 's/DP_LOG(1.0f + /log1p((/' msl log1p
fault "msl: double" $H 's/float lo = DP_MIN/double lo = DP_MIN/' msl double
fault "msl: a pointer without an address space" $H 's/DP_SHARED float\*/float*/' msl 'address space'
fault "msl: the wrong address space" $H 's/DP_GLOBAL T\* y/DP_SHARED T* y/' msl 'no matching function|address space'
fault "msl: a buffer index used twice" $M 's/buffer(1)/buffer(0)/' msl 'share an index'
fault "msl: a lambda" $H 's/  float lo = DP_MIN(a, b);/  auto least = [=]() { return DP_MIN(a, b); }; float lo = least();/' msl lambda
fault "msl: recursion" $H 's/return lo == DP_NEG_INF/return a > b ? dp_logaddexp(b, a) : lo == DP_NEG_INF/' msl recursion
fault "msl: a static local" $H 's/  float lo = DP_MIN/  static int calls = 0; calls++; float lo = DP_MIN/' msl 'static'
