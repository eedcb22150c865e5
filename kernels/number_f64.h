// f64 for number.h: what depends on the mantissa's type once more. Metal has no such type.

template <> struct ctc_real<double> {
  typedef u64 word;
  typedef i64 near;
  static CTC_FN double from_bits(u64 x) { return ctc_as_double(x); }
  static CTC_FN u64 to_bits(double x) { return ctc_as_ulong(x); }
  static CTC_FN double pow2(i64 d) { return ctc_as_double((u64)(ctc_max(d, (i64)-1023) + 1023) << 52); }
  static CTC_FN int exponent(double x) { return (int)(ctc_as_ulong(x) >> 52) - 1023; }
  static CTC_FN double mantissa(double x) {
    return ctc_as_double((ctc_as_ulong(x) & 0x000fffffffffffffull) | 0x3ff0000000000000ull);
  }
  static CTC_FN i64 reduce(double x, CTC_THREAD double& r) {
    double n = ctc_fma(x, 1.4426950408889634, 6755399441055744.0) - 6755399441055744.0;
    r = ctc_fma(n, -1.9082149292705877e-10, ctc_fma(n, -0.6931471803691238, x));
    return (i64)n;
  }
  static CTC_FN double exp_series(double r) {
    double p = 1.0 / 6227020800.0;
    p = ctc_fma(p, r, 1.0 / 479001600.0);
    p = ctc_fma(p, r, 1.0 / 39916800.0);
    p = ctc_fma(p, r, 1.0 / 3628800.0);
    p = ctc_fma(p, r, 1.0 / 362880.0);
    p = ctc_fma(p, r, 1.0 / 40320.0);
    p = ctc_fma(p, r, 1.0 / 5040.0);
    p = ctc_fma(p, r, 1.0 / 720.0);
    p = ctc_fma(p, r, 1.0 / 120.0);
    p = ctc_fma(p, r, 1.0 / 24.0);
    p = ctc_fma(p, r, 1.0 / 6.0);
    p = ctc_fma(p, r, 0.5);
    return ctc_fma(p * r, r, r) + 1.0;
  }
  static CTC_FN double exp_negative(double x) {
    double r;
    i64 n = reduce(ctc_max(x, -750.0), r);
    double y = exp_series(r) * pow2(n);
    return x < -708.0 ? 0.0 : x != x ? x : y;
  }
  static CTC_FN double exp_fast(double x) { return exp_negative(x); }
  static CTC_FN double exp(double x) {
    double r;
    i64 n = reduce(ctc_min(ctc_max(x, -750.0), 750.0), r);
    double y = exp_series(r) * pow2(ctc_min(n, (i64)1022)) * pow2(ctc_max(n - 1022, (i64)0));
    return x < -708.0 ? 0.0 : x != x ? x : y;
  }
  static CTC_FN bool near_is_all() { return true; }
  static CTC_FN int log_terms() { return 11; }
  static CTC_FN double ln2() { return 0.69314718055994531; }
  static CTC_FN double ln2_rest() { return 2.3190468138462996e-17; }
  static CTC_FN double epsilon() { return 2.220446049250313e-16; }
  static CTC_FN double root_half() { return 0.70710678118654752; }
  static CTC_FN double infinity() { return ctc_as_double(0x7ff0000000000000ull); }
  static CTC_FN double nan() { return ctc_as_double(0x7ff8000000000000ull); }
};

CTC_FN void ctc_pack(ctc_number<double, i64> a, CTC_THREAD u64& low, CTC_THREAD u64& high) {
  low = ctc_as_ulong(a.m);
  high = (u64)a.e;
}
CTC_FN ctc_number<double, i64> ctc_unpack(u64 low, u64 high, i64) { return ctc_make<double, i64>(ctc_as_double(low), (i64)high); }

// As for float; no difference is too far for f64.
CTC_FN ctc_emission<double> ctc_split(double x, double largest) {
  ctc_emission<double> y;
  double lost, r;
  double d = ctc_difference(x, largest, lost);
  if (!(d >= -(double)CTC_FAR_BELOW)) {
    y.m = 1.0;
    y.e = CTC_NO_EMISSION;
    return y;
  }
  y.e = (int)ctc_real<double>::reduce(d, r);
  y.m = ctc_real<double>::exp_series(r + lost);
  return y;
}
