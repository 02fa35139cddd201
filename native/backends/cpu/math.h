// Functions of vectors. exp is within 1.02 units in the last place of the true value everywhere,
// gives inf and 0 past the range of float32, and keeps NaN.
#pragma once

#include "backends/cpu/simd.h"

namespace nibble::cpu::NIBBLE_ISA {

// x, but no less or no more than a bound; NaN stays NaN.
static inline Vec at_least(Vec x, float low) {
#if defined(__AVX512F__)
  return _mm512_max_ps(splat(low), x);
#elif defined(__AVX2__)
  return _mm256_max_ps(splat(low), x);
#else
  return x < low ? splat(low) : x;
#endif
}
static inline Vec at_most(Vec x, float high) {
#if defined(__AVX512F__)
  return _mm512_min_ps(splat(high), x);
#elif defined(__AVX2__)
  return _mm256_min_ps(splat(high), x);
#else
  return x > high ? splat(high) : x;
#endif
}

constexpr float kLog2E = 1.44269504f;
constexpr float kRound = 0x1.8p23f;  // adding it rounds to a whole number

// e^r, r = x - n ln 2, for a whole n that leaves |r| <= ln 2 / 2. Subtracted in two parts as in Cephes' expf (Moshier, 1989),
// then 1 + r + r^2 q(r): q of degree 4 is within 0.05 units in the last place (fitted for the least largest relative error).
static inline Vec exp_of_rest(Vec x, Vec n) {
  Vec r = fma(n, splat(-0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  Vec p = splat(0x1.6a23d0p-10f);
  p = fma(p, r, splat(0x1.123a20p-7f));
  p = fma(p, r, splat(0x1.5558f2p-5f));
  p = fma(p, r, splat(0x1.555492p-3f));
  p = fma(p, r, splat(0x1.fffffcp-2f));
#if defined(__FMA__)
  return fma(fma(p, r, splat(1.0f)), r, splat(1.0f));
#else
  return (p * r * r + r) + 1.0f;  // unfused, the other order would lose a seventh of a unit
#endif
}

static inline Vec exp(Vec x) {
  x = at_most(at_least(x, -104.0f), 89.0f);
  const Vec n = fma(x, splat(kLog2E), splat(kRound)) - splat(kRound);
  const Vec p = exp_of_rest(x, n);
#if defined(__AVX512F__)
  return (Vec)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  // 2^n in two factors, so that results may be subnormal or infinite.
  const IVec whole = __builtin_convertvector(n, IVec);
  const IVec half = whole >> 1;
  return p * (Vec)((half + 127) << 23) * (Vec)((whole - half + 127) << 23);
#endif
}

// exp for x from -87 to 88, whose results are normal numbers: in fewer instructions.
static inline Vec exp_normal(Vec x) {
#if defined(__AVX512F__)
  const Vec n = fma(x, splat(kLog2E), splat(kRound)) - splat(kRound);
  return (Vec)_mm512_scalef_ps((__m512)exp_of_rest(x, n), (__m512)n);
#else
  const Vec biased = fma(x, splat(kLog2E), splat(kRound + 127));  // its lowest bits are n + 127
  return exp_of_rest(x, biased - splat(kRound + 127)) * (Vec)((UVec)biased << 23);
#endif
}

// 2^x for x < 128, within 2e-7 of it; 0 or nearly so below -126.5, NaN for NaN, anything from 128 on. Half the instructions
// of exp. x is n + r with |r| <= 1/2, and 2^r is 1 + r q(r) (q fitted for the least largest relative error).
static inline Vec exp2(Vec x) {
#if defined(__AVX512F__)
  const Vec r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const Vec biased = at_least(x, -127.0f) + splat(kRound + 127);  // its lowest bits are n + 127
  const Vec r = at_least(x, -127.0f) - (biased - splat(kRound + 127));
#endif
  Vec p = splat(0x1.5bba14p-10f);
  p = fma(p, r, splat(0x1.3cea88p-7f));
  p = fma(p, r, splat(0x1.c6b752p-5f));
  p = fma(p, r, splat(0x1.ebf9bcp-3f));
  p = fma(p, r, splat(0x1.62e42ap-1f));
  p = fma(p, r, splat(1.0f));
#if defined(__AVX512F__)
  return (Vec)_mm512_scalef_ps((__m512)p, (__m512)(x - r));
#else
  return p * (Vec)((UVec)biased << 23);
#endif
}

// Whether any lane of a is greater than that of b.
static inline bool any_above(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0;
#else
  const IVec above = a > b;
  int32_t any = 0;
  for (int l = 0; l < kWidth; ++l) any |= above[l];
  return any != 0;
#endif
}

static inline float max(Vec v) {
  return fold(v, [](auto a, auto b) { return a < b ? b : a; });
}

}  // namespace nibble::cpu::NIBBLE_ISA
