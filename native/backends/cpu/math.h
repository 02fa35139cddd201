// Functions of vectors. exp is within 1.02 units in the last place of the true value everywhere,
// gives inf and 0 past the range of float32, and keeps NaN.
#pragma once

#include "backends/cpu/simd.h"

namespace nibble::cpu::NIBBLE_ISA {

// Range reduction to n ln 2 + r with |r| <= ln 2 / 2, and the polynomial of Cephes' expf (Moshier, 1989).
static inline Vec exp(Vec x) {
  x = x < -104.0f ? splat(-104.0f) : x;
  x = x > 89.0f ? splat(89.0f) : x;
  const Vec magic = splat(0x1.8p23f);  // adding it rounds to a whole number
  const Vec n = fma(x, splat(1.44269504f), magic) - magic;
  Vec r = fma(n, splat(-0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  Vec p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p * r, r, r) + 1.0f;
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
