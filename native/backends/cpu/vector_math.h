// Elementary functions of vectors. Errors were measured over all float32 arguments; ops' tests hold them.
#pragma once

#include "backends/cpu/simd.h"

namespace nibble::cpu::NIBBLE_ISA {

static inline Vec select(IVec mask, Vec a, Vec b) { return mask ? a : b; }

// 2^n for whole n in [-126, 127].
static inline Vec power_of_two(IVec n) { return (Vec)((UVec)(n + 127) << 23); }

// e^x within 2 ulp (portable: 2.5), subnormal results, 0 and infinity included; NaN stays NaN.
// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by the polynomial of Cephes' expf.
static inline Vec exp(Vec x) {
  x = select(x > splat(89.0f), splat(89.0f), x);
  x = select(x < splat(-104.0f), splat(-104.0f), x);
  const Vec shift = splat(0x1.8p23f);  // adding it rounds to a whole number, which its low bits hold
  const Vec shifted = fma(x, splat(0x1.715476p0f), shift);
  const IVec n = (IVec)shifted - (IVec)shift;
  const Vec whole = shifted - shift;
  Vec r = fma(whole, splat(-0x1.63p-1f), x);
  r = fma(whole, splat(0x1.bd0106p-13f), r);
  Vec p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r) + splat(1.0f);
  const IVec half = n >> 1;  // twice half of n: 2^n itself may be no float32
  return p * power_of_two(half) * power_of_two(n - half);
}

static inline Vec sigmoid(Vec x) { return splat(1.0f) / (splat(1.0f) + exp(-x)); }

// sigmoid(x) and 1 - sigmoid(x), neither by cancellation. Below x = -87 the first is 1e-38 instead of less.
static inline void sigmoid_and_rest(Vec x, Vec& s, Vec& rest) {
  const Vec e = exp(select(x < splat(-87.0f), splat(87.0f), -x));
  s = splat(1.0f) / (splat(1.0f) + e);
  rest = e * s;
}

// The share of N(0, 1) below x, (1 + erf(x / sqrt 2)) / 2: relative error below 1e-6 for x > -1, growing
// with x^2 to 4e-6 at -8 (the rounding of x^2 in the exponential).
// erfc(z) = t exp(-z^2 + polynomial in t), t = 1 / (1 + z / 2), z >= 0: W. J. Cody's rational form as
// tabulated in Numerical Recipes (Press et al., section 6.2), fractional error 1.2e-7.
static inline Vec normal_cdf(Vec x) {
  const Vec z = (Vec)((UVec)x & 0x7fffffffu) * splat(0x1.6a09e6p-1f);
  const Vec t = splat(1.0f) / fma(z, splat(0.5f), splat(1.0f));
  Vec p = splat(0.17087277f);
  p = fma(p, t, splat(-0.82215223f));
  p = fma(p, t, splat(1.48851587f));
  p = fma(p, t, splat(-1.13520398f));
  p = fma(p, t, splat(0.27886807f));
  p = fma(p, t, splat(-0.18628806f));
  p = fma(p, t, splat(0.09678418f));
  p = fma(p, t, splat(0.37409196f));
  p = fma(p, t, splat(1.00002368f));
  p = fma(p, t, splat(-1.26551223f));
  const Vec tail = splat(0.5f) * t * exp(fma(-z, z, p));
  return select(x > Vec{}, splat(1.0f) - tail, tail);
}

}  // namespace nibble::cpu::NIBBLE_ISA
