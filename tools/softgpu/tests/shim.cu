// One kernel for each part of CUDA's vocabulary that the shim gives; tests/shim.py checks the results.
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cstdint>

// out[k * 32 + lane], one row for each operation
extern "C" __global__ void __launch_bounds__(32) shuffles(float* __restrict__ out, double* wide, int width) {
  int lane = threadIdx.x;
  float v = (float)lane;
  out[lane] = __shfl_up_sync(0xffffffffu, v, 3, width);
  out[32 + lane] = __shfl_down_sync(0xffffffffu, v, 3, width);
  out[64 + lane] = __shfl_xor_sync(0xffffffffu, v, 1, width);
  out[96 + lane] = __shfl_sync(0xffffffffu, v, 5, width);
  wide[lane] = __shfl_down_sync(~0u, (double)lane * 1e10 + 0.5, 1);
  int64_t big = __shfl_xor_sync(~0u, (int64_t)lane << 40, 31);
  wide[32 + lane] = (double)(big >> 40);
  if (lane < 8) {  // part of a warp, as its mask says
    out[128 + lane] = (float)__ballot_sync(0xffu, lane & 1);
    __syncwarp(0xffu);
    out[136 + lane] = (float)(__any_sync(0xffu, lane == 7) * 2 + __all_sync(0xffu, lane < 7));
  }
}

template <typename T> __device__ __forceinline__ float load(const T* p) { return float(*p); }
template <> __device__ __forceinline__ float load<__half>(const __half* p) { return __half2float(__ldg(p)); }
template <> __device__ __forceinline__ float load<__nv_bfloat16>(const __nv_bfloat16* p) { return __bfloat162float(__ldg(p)); }

// a grid-stride loop; an instantiation is launched by its name
template <typename T, int K>
__global__ void scaled(const T* __restrict__ x, float* __restrict__ y, int64_t n) {
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) y[i] = load(x + i) * K;
}
template __global__ void scaled<float, 3>(const float*, float*, int64_t);
template __global__ void scaled<__half, 2>(const __half*, float*, int64_t);
template __global__ void scaled<__nv_bfloat16, 2>(const __nv_bfloat16*, float*, int64_t);

// dynamic and static shared memory, vector loads
extern "C" __global__ void reversed(const float4* x, float* y, int n4, int shift) {
  extern __shared__ __align__(16) float tile[];
  __shared__ int count[2], last;
  if (threadIdx.x < 2) count[threadIdx.x] = 0;
  if (threadIdx.x == 0) last = n4 * 4 - 1;
  __syncthreads();
  for (int i = threadIdx.x; i < n4; i += blockDim.x) {
    float4 v = *reinterpret_cast<const float4*>(reinterpret_cast<const float*>(x + i) + shift);
    tile[i * 4] = v.x; tile[i * 4 + 1] = v.y; tile[i * 4 + 2] = v.z; tile[i * 4 + 3] = v.w;
    atomicAdd(&count[0], 4);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < n4 * 4; i += blockDim.x) y[i] = tile[last - i];
  if (threadIdx.x == 0) y[n4 * 4] = (float)count[0];
}

// one thread: bits, conversions, maths; each is 1 when right
extern "C" __global__ void bits(int* ok, int four, int zero) {
  int i = 0, table[4] = {1, 2, 3, 4};
#define IS(...) ok[i++] = (__VA_ARGS__)
  IS(__float_as_int(1.0f) == 0x3f800000 && __int_as_float(0x40000000) == 2.0f);
  IS(__double_as_longlong(1.0) == 0x3ff0000000000000ll && __longlong_as_double(0x4000000000000000ll) == 2.0);
  IS(__hiloint2double(__double2hiint(3.25), __double2loint(3.25)) == 3.25);
  IS(exp2f(3.0f) == 8.0f && log2f(8.0f) == 3.0f && exp2(-1074.0) > 0.0 && log2(0.5) == -1.0);
  IS(expf(0.0f) == 1.0f && logf(1.0f) == 0.0f && expf(-CUDART_INF_F) == 0.0f && logf(0.0f) == -INFINITY);
  IS(fmaf(2.0f, 3.0f, 4.0f) == 10.0f && ldexpf(1.0f, 5) == 32.0f && fmaxf(CUDART_NAN_F, 1.0f) == 1.0f);
  IS(__float2half(0.5f) == (__half)0.5f && __half2float(__float2half(65536.0f)) == INFINITY);
  IS(__bfloat162float(__float2bfloat16(1.00390625f)) == 1.0f && __bfloat162float(__float2bfloat16(3.0f)) == 3.0f);
  IS(__clz(1) == 31 && __ffs(8) == 4 && __popc(255u) == 8 && __float2int_rn(2.5f) == 2 && __float2int_rd(-0.5f) == -1);
  IS(__float2int_rz(1e20f) == INT_MAX && min(3, 4) == 3 && max(2.0f, 1.0f) == 2.0f && isinf(-CUDART_INF_F));
  IS(1e-40f * (float)four > 0.0f);                // no flush to zero
  IS(table[four - 4 + zero] == 1);
}
