// The arithmetic of the lattice, for CUDA and Metal alike. No input, no output, no threads.
//
// A state is m · 2^e with an exponent of its own, as at the finest level on the CPU (DESIGN.md says why). A sum
// brings its terms to the largest exponent with powers of two that are made from bits; the recursion
// takes no logarithm and no exponential, and nothing in it can vanish. Exponentials and logarithms are
// made from sums and products, so that no result hangs on the accuracy of a library's function, but for one: the
// sum of exponentials of a row and the softmax (f32) use the device's power of two, which is good to 2 units in the
// last place.
//
// Two types of exponents. `int` serves paths of up to 2^27 binary orders; `i64` the rest: an item with
// entries that far apart, and all of f64. Metal has no f64.

// An exponent at or below `zero_below` belongs to a zero; sums never fall below `zero`.
CTC_FN int ctc_zero(int) { return -(1 << 29); }
CTC_FN i64 ctc_zero(i64) { return -((i64)1 << 50); }
CTC_FN int ctc_zero_below(int) { return -(1 << 28); }
CTC_FN i64 ctc_zero_below(i64) { return -((i64)1 << 49); }

// Exponents of an emission take 32 bits; this one stands for a zero.
#define CTC_NO_EMISSION ((int)0x80000000)
// Entries this far (in nats) below the largest of their frame count as -inf: 2^31 ln 2.
#define CTC_FAR_BELOW 1.4885e9f
// Differences (in nats) up to this are split with f32 alone.
#define CTC_NEAR 22000.0f
// Sums of |log p| (in nats) along a path that exponents of 32 bits hold: below 2^27 ln 2.
#define CTC_PATH_LIMIT 9.0e7f

// An emission, as the lattice reads it.
template <typename M> struct alignas(8) ctc_emission { M m; int e; };

// A number with an exponent of type X.
template <typename M, typename X> struct ctc_number { M m; X e; };

template <typename M, typename X> CTC_FN ctc_number<M, X> ctc_make(M m, X e) {
  ctc_number<M, X> r;
  r.m = m;
  r.e = e;
  return r;
}

template <typename M, typename X> CTC_FN ctc_number<M, X> ctc_none() { return ctc_make<M, X>(M(1), ctc_zero(X(0))); }

template <typename T> CTC_FN T ctc_max(T a, T b) { return a > b ? a : b; }
template <typename T> CTC_FN T ctc_min(T a, T b) { return a < b ? a : b; }
template <typename T> CTC_FN T ctc_abs(T a) { return a < T(0) ? -a : a; }

// What depends on the mantissa's type: words, the parts of exp and log.
template <typename M> struct ctc_real;

template <> struct ctc_real<float> {
  typedef uint word;
  // Exponents for most items; the rest take i64.
  typedef int near;
  static CTC_FN float from_bits(uint x) { return ctc_as_float(x); }
  static CTC_FN uint to_bits(float x) { return ctc_as_uint(x); }
  // 2^d for d up to 127; 0 from 2^-127 on down.
  static CTC_FN float pow2(int d) { return ctc_as_float((uint)(ctc_max(d, -127) + 127) << 23); }
  static CTC_FN float pow2(i64 d) { return pow2((int)ctc_max(d, (i64)-127)); }
  static CTC_FN int exponent(float x) { return (int)(ctc_as_uint(x) >> 23) - 127; }
  static CTC_FN float mantissa(float x) { return ctc_as_float((ctc_as_uint(x) & 0x007fffffu) | 0x3f800000u); }
  // x = n ln 2 + r, |r| <= ln 2 / 2, for |n| < 2^15: ln 2 in three parts, two of them of 9 bits.
  static CTC_FN int reduce(float x, CTC_THREAD float& r) {
    float n = ctc_fma(x, 1.44269504f, 12582912.0f) - 12582912.0f;
    r = ctc_fma(n, 1.90465421e-9f, ctc_fma(n, 2.12192535e-4f, ctc_fma(n, -0.693359375f, x)));
    return (int)n;
  }
  // e^r for |r| <= ln 2 / 2: its series to r^7, the rest being 5e-9 of it.
  static CTC_FN float exp_series(float r) {
    float p = 1.0f / 5040.0f;
    p = ctc_fma(p, r, 1.0f / 720.0f);
    p = ctc_fma(p, r, 1.0f / 120.0f);
    p = ctc_fma(p, r, 1.0f / 24.0f);
    p = ctc_fma(p, r, 1.0f / 6.0f);
    p = ctc_fma(p, r, 0.5f);
    return ctc_fma(p * r, r, r) + 1.0f;
  }
  // e^x for x <= 0; 0 below the smallest normal number. A NaN stays one.
  static CTC_FN float exp_negative(float x) {
    float r;
    int n = reduce(ctc_max(x, -100.0f), r);
    float y = exp_series(r) * pow2(n);
    return x < -87.0f ? 0.0f : x != x ? x : y;
  }
  // The same by the device's own power of two, to 3 units in the last place; e^0 is 1. The argument is rounded in
  // binary orders, and what that lost is a factor of its own. A NaN gives 0.
  static CTC_FN float exp_fast(float x) {
    x = ctc_max_number(x, -150.0f);
    float n = x * 1.44269504f;
    float y = ctc_exp2(n);
    return ctc_fma(y, ctc_fma(n, -0.693147181f, x), y);
  }
  // e^x for any x.
  static CTC_FN float exp(float x) {
    float r;
    int n = reduce(ctc_min(ctc_max(x, -100.0f), 100.0f), r);
    float y = exp_series(r) * pow2(ctc_min(n, 126)) * pow2(ctc_max(n - 126, 0));
    return x < -87.0f ? 0.0f : x != x ? x : y;
  }
  static CTC_FN bool near_is_all() { return false; }
  static CTC_FN int log_terms() { return 5; }
  static CTC_FN float ln2() { return 0.693147181f; }
  static CTC_FN float ln2_rest() { return -1.90465421e-9f; }
  static CTC_FN float epsilon() { return 1.1920929e-7f; }
  static CTC_FN float root_half() { return 0.70710678f; }
  static CTC_FN float infinity() { return ctc_as_float(0x7f800000u); }
  static CTC_FN float nan() { return ctc_as_float(0x7fc00000u); }
};

// ---- the recursion

// a + b; the mantissa may grow by 1 bit.
template <typename M, typename X>
CTC_FN ctc_number<M, X> ctc_sum2(ctc_number<M, X> a, ctc_number<M, X> b) {
  X e = ctc_max(a.e, b.e);
  M m = ctc_fma(a.m, ctc_real<M>::pow2(a.e - e), b.m * ctc_real<M>::pow2(b.e - e));
  return ctc_make<M, X>(m, e);
}

// a + b + c.
template <typename M, typename X>
CTC_FN ctc_number<M, X> ctc_sum3(ctc_number<M, X> a, ctc_number<M, X> b, ctc_number<M, X> c) {
  X e = ctc_max(ctc_max(a.e, b.e), c.e);
  M m = ctc_fma(a.m, ctc_real<M>::pow2(a.e - e),
                ctc_fma(b.m, ctc_real<M>::pow2(b.e - e), c.m * ctc_real<M>::pow2(c.e - e)));
  return ctc_make<M, X>(m, e);
}

// a · y, its exponent not below a zero's.
template <typename M, typename X>
CTC_FN ctc_number<M, X> ctc_times(ctc_number<M, X> a, ctc_number<M, X> y) {
  return ctc_make<M, X>(a.m * y.m, ctc_max<X>(a.e + y.e, ctc_zero(X(0))));
}

// a · b · 2^-top as a plain number.
template <typename M, typename X>
CTC_FN M ctc_product(ctc_number<M, X> a, ctc_number<M, X> b, X top) {
  return a.m * b.m * ctc_real<M>::pow2(a.e + b.e - top);
}

// The same number with its mantissa in [1, 2).
template <typename M, typename X> CTC_FN ctc_number<M, X> ctc_normal(ctc_number<M, X> a) {
  return ctc_make<M, X>(ctc_real<M>::mantissa(a.m), ctc_max<X>(a.e + (X)ctc_real<M>::exponent(a.m), ctc_zero(X(0))));
}

// The emission as a factor of the recursion.
template <typename M> CTC_FN ctc_number<M, int> ctc_factor(M m, int e, int) {
  return ctc_make<M, int>(m, ctc_max(e, ctc_zero(0)));
}
template <typename M> CTC_FN ctc_number<M, i64> ctc_factor(M m, int e, i64) {
  return ctc_make<M, i64>(m, e == CTC_NO_EMISSION ? ctc_zero((i64)0) : (i64)e);
}

// ---- states in memory: two words

// f32 with exponents of 32 bits: as they are.
CTC_FN void ctc_pack(ctc_number<float, int> a, CTC_THREAD uint& low, CTC_THREAD uint& high) {
  low = ctc_as_uint(a.m);
  high = (uint)a.e;
}
CTC_FN ctc_number<float, int> ctc_unpack(uint low, uint high, int) { return ctc_make<float, int>(ctc_as_float(low), (int)high); }

// f32 with exponents of 64 bits: 20 bits of the mantissa, 44 of the exponent. That is exact to 2^-21,
// and enough for paths of 2^43 binary orders; what is below is a zero.
CTC_FN void ctc_pack(ctc_number<float, i64> a, CTC_THREAD uint& low, CTC_THREAD uint& high) {
  a = ctc_normal(a);
  uint rounded = (ctc_as_uint(a.m) & 0x007fffffu) + 4u;
  i64 e = ctc_max(a.e + (i64)(rounded >> 23), -((i64)1 << 43));
  u64 bits = ((u64)e << 20) | (u64)((rounded & 0x007fffffu) >> 3);
  low = (uint)bits;
  high = (uint)(bits >> 32);
}
CTC_FN ctc_number<float, i64> ctc_unpack(uint low, uint high, i64) {
  i64 bits = (i64)(((u64)high << 32) | (u64)low);
  i64 e = bits >> 20;
  float m = ctc_as_float((((uint)bits & 0x000fffffu) << 3) | 0x3f800000u);
  return ctc_make<float, i64>(m, e == -((i64)1 << 43) ? ctc_zero((i64)0) : e);
}

// ---- emissions

// a - b rounded, and what the rounding lost (Knuth's two-sum).
template <typename M> CTC_FN M ctc_difference(M a, M b, CTC_THREAD M& lost) {
  M d = a - b;
  M minus_b = d - a;
  lost = (a - (d - minus_b)) - (b + minus_b);
  return d;
}

// |d| = n ln 2 + r for differences that f32 cannot hold n and r of: in units of 2^-24, with ln 2 in a
// whole part of 24 bits and 32 bits behind it. NEAR <= |d| <= FAR_BELOW, so 2^-9 is a whole number of units.
CTC_FN int ctc_reduce_far(float d, CTC_THREAD float& r) {
  uint bits = ctc_as_uint(d);
  i64 units = (i64)((u64)((bits & 0x007fffffu) | 0x00800000u) << (((bits >> 23) & 0xffu) - 126u));
  i64 n = (i64)(ctc_abs(d) * 1.44269504f);
  i64 rest = units - (n * 11629079 + (i64)(((u64)n * 4157722489u) >> 32));
  i64 more = (i64)((float)rest * (1.44269504f / 16777216.0f) + (rest < 0 ? -0.5f : 0.5f));
  n += more;
  rest = units - (n * 11629079 + (i64)(((u64)n * 4157722489u) >> 32));
  r = (float)rest * (1.0f / 16777216.0f);
  if (d < 0.0f) r = -r;
  return (int)(d < 0.0f ? -n : n);
}

// e^(x - largest) for x <= largest, both finite; -inf and what is too far below give a zero.
CTC_FN ctc_emission<float> ctc_split(float x, float largest) {
  ctc_emission<float> y;
  float lost, r;
  float d = ctc_difference(x, largest, lost);
  if (!(d >= -CTC_FAR_BELOW)) {
    y.m = 1.0f;
    y.e = CTC_NO_EMISSION;
    return y;
  }
  y.e = d < -CTC_NEAR ? ctc_reduce_far(d, r) : ctc_real<float>::reduce(d, r);
  y.m = ctc_real<float>::exp_series(r + lost);
  return y;
}

// ---- logarithms, and sums in two parts

// ln(1 + f) for 1 + f in [sqrt(1/2), sqrt(2)], exact relative to itself: 2 artanh(f / (2 + f)).
template <typename M> CTC_FN M ctc_log_near_1(M f) {
  M s = f / (M(2) + f);
  M square = s * s;
  int terms = ctc_real<M>::log_terms();
  M p = M(1) / M(2 * terms - 1);
  CTC_UNROLL
  for (int k = terms - 2; k >= 1; k--) p = ctc_fma(p, square, M(1) / M(2 * k + 1));
  return ctc_fma(M(2) * s, p * square, M(2) * s);
}

// ln(ones + others) for ones >= 1, a whole number, and others >= 0: small others are not lost beside a 1.
template <typename M> CTC_FN M ctc_log_sum(M ones, M others) {
  M total = ones + others;
  int n = ctc_real<M>::exponent(total);
  M f = (ones - M(1)) + others;
  if (n != 0 || f > M(0.4f)) {
    M m = ctc_real<M>::mantissa(total);
    if (m > M(2) * ctc_real<M>::root_half()) {
      m = m * M(0.5f);
      n += 1;
    }
    f = m - M(1);
  }
  return ctc_fma(M(n), ctc_real<M>::ln2(), ctc_log_near_1(f));
}

template <typename M> CTC_FN bool ctc_is_finite(M x) { return ctc_abs(x) < ctc_real<M>::infinity(); }

// high + low, to twice the digits of M.
template <typename M> struct ctc_pair { M high, low; };

template <typename M> CTC_FN void ctc_add(CTC_THREAD ctc_pair<M>& a, M high, M low) {
  M sum = a.high + high;
  M added = sum - a.high;
  M lost = (a.high - (sum - added)) + (high - added) + a.low + low;
  // What lost its digits to an infinity is no NaN.
  if (!ctc_is_finite(sum)) lost = M(0);
  a.high = sum + lost;
  a.low = ctc_is_finite(a.high) ? lost - (a.high - sum) : M(0);
}

// a += k ln 2 for a whole number k below 2^50.
template <typename M> CTC_FN void ctc_add_ln2(CTC_THREAD ctc_pair<M>& a, i64 k) {
  M high = (M)k;
  M low = (M)(k - (i64)high);
  M product = high * ctc_real<M>::ln2();
  M lost = ctc_fma(high, ctc_real<M>::ln2(), -product);
  ctc_add(a, product, ctc_fma(high, ctc_real<M>::ln2_rest(), ctc_fma(low, ctc_real<M>::ln2(), lost)));
}

// -ln P. A probability above 1 only by rounding counts as 1: a loss is negative only if the input implies it, which
// logits cannot.
template <typename M> CTC_FN M ctc_loss_of(ctc_pair<M> log_p, int frames, bool logits) {
  M value = log_p.high + log_p.low;
  bool rounding = logits || value <= M(2) * ctc_real<M>::epsilon() * M(frames);
  return value > M(0) && rounding ? M(0) : M(0) - value;
}
