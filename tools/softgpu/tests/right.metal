// MSL that is right and that a strict check may stumble over: structs by value, votes, casts, vectors.
#include <metal_stdlib>
using namespace metal;

struct scaled { float m; int e; };
METAL_FUNC scaled make(float m, int e) { return scaled{m, e}; }
METAL_FUNC scaled add(scaled a, scaled b) { scaled r; r.m = a.m + b.m; r.e = max(a.e, b.e); return r; }
METAL_FUNC scaled pick(scaled a, scaled b, bool first) { if (first) return a; return b; }
template <typename T> METAL_FUNC float load(const device T* p) { return float(*p); }

kernel void right(device float* y [[buffer(0)]], constant scaled& p [[buffer(1)]], device scaled* q [[buffer(2)]],
                  const device half* h [[buffer(3)]], const device float4* v [[buffer(4)]], const device bfloat* b [[buffer(5)]],
                  uint i [[thread_position_in_grid]], ushort lane [[thread_index_in_simdgroup]]) {
  threadgroup scaled t[2 * 16];
  threadgroup float sum, least[4];
  scaled a = add(make(1.0f, 2), make(p.m, p.e));
  q[i] = a;
  t[i % 32u] = pick(a, q[i], i > 1u);
  if (i == 0u) { sum = 0.0f; least[3] = 1.0f; }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  ulong votes = ulong(simd_ballot(lane > 3u));
  float4 w = v[i];
  float up = simd_shuffle_up(w.x, ushort(1)) + simd_shuffle_xor(w.y, ushort(3)) + simd_shuffle(w.z, ushort(0)) + simd_max(w.w);
  int bits = as_type<int>(up) + int(votes & 0xfful) + (simd_any(lane == 2u) ? 1 : 0);
  y[i] = precise::exp2(t[0].m) + load(h + i) + load(b + i) + sum + least[3] + float(bits) + ldexp(1.0f, t[1].e);
}
