// What sample.sass was made of: two kernels with the loops that the rules look for, and nothing else.
//
//   nvcc -cubin -arch=sm_90 -O3 -std=c++17 -fmad=false sample.cu -o sample.cubin
//   nvdisasm -hex -c sample.cubin | sed -E 's/ {2,}/  /g' > sample.sass

struct alignas(8) words { unsigned low, high; };

__device__ __forceinline__ float power(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// A sweep that keeps two states a frame, two frames a turn; then a pass that reads them and writes one.
extern "C" __global__ void ctc_lattice_f32_1(const words* emissions, words* kept, float* loss, int frames) {
  float m = 1.0f;
  unsigned e = threadIdx.x;
  emissions += threadIdx.x;
  kept += threadIdx.x;
#pragma unroll 2
  for (int t = 0; t < frames; t++) {
    m = m * __shfl_up_sync(~0u, m, 1) + __uint_as_float(emissions[t * 32].low);
    e = max(e, __shfl_up_sync(~0u, e, 1)) + emissions[t * 32].high;
    kept[t * 64] = words{__float_as_uint(m), e};
    kept[t * 64 + 32] = words{e, __float_as_uint(m)};
  }
#pragma unroll 1
  for (int t = frames; t > 0; t--) {
    words before = kept[t * 64];
    m = m * __shfl_up_sync(~0u, m, 1) + __uint_as_float(emissions[t * 32].low);
    e = max(e, __shfl_up_sync(~0u, e, 1)) + before.low;
    kept[t * 64] = words{before.high, e};
  }
  *loss = m;
}

// Softmax of a row in vectors, and of entries at any stride.
extern "C" __global__ void ctc_gradient_f32(const float* x, float4* y, int count, int stride, float largest) {
  if (stride == 1) {
#pragma unroll 1
    for (int i = threadIdx.x; i < count; i += 32) {
      float4 v = ((const float4*)x)[i];
      y[i] = make_float4(power(v.x - largest), power(v.y - largest), power(v.z - largest), power(v.w - largest));
    }
  } else {
#pragma unroll 1
    for (int i = threadIdx.x; i < count; i += 32) {
      float4 v = make_float4(x[i * stride], x[(i + 1) * stride], x[(i + 2) * stride], x[(i + 3) * stride]);
      y[i] = make_float4(power(v.x - largest), power(v.y - largest), power(v.z - largest), power(v.w - largest));
    }
  }
}
