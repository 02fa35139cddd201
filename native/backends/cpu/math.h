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

// Range reduction to n ln 2 + r with |r| <= ln 2 / 2, in two parts as in Cephes' expf (Moshier, 1989), then
// 1 + r + r^2 q(r): q of degree 4 is within 0.05 units in the last place (fitted for the least largest relative error).
static inline Vec exp(Vec x) {
  x = at_most(at_least(x, -104.0f), 89.0f);
  const Vec magic = splat(0x1.8p23f);  // adding it rounds to a whole number
  const Vec n = fma(x, splat(1.44269504f), magic) - magic;
  Vec r = fma(n, splat(-0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  Vec p = splat(0x1.6a23d0p-10f);
  p = fma(p, r, splat(0x1.123a20p-7f));
  p = fma(p, r, splat(0x1.5558f2p-5f));
  p = fma(p, r, splat(0x1.555492p-3f));
  p = fma(p, r, splat(0x1.fffffcp-2f));
#if defined(__FMA__)
  p = fma(fma(p, r, splat(1.0f)), r, splat(1.0f));
#else
  p = (p * r * r + r) + 1.0f;  // unfused, the other order would lose a seventh of a unit
#endif
#if defined(__AVX512F__)
  return (Vec)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  // 2^n in two factors, so that results may be subnormal or infinite.
  const IVec whole = __builtin_convertvector(n, IVec);
  const IVec half = whole >> 1;
  return p * (Vec)((half + 127) << 23) * (Vec)((whole - half + 127) << 23);
#endif
}

static inline float max(Vec v) {
  return fold(v, [](auto a, auto b) { return a < b ? b : a; });
}

}  // namespace nibble::cpu::NIBBLE_ISA
