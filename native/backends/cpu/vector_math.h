// What activations are made of. The ops' tests hold the errors that are named here.
#pragma once

#include "backends/cpu/math.h"

namespace nibble::cpu::NIBBLE_ISA {

static inline Vec select(IVec mask, Vec a, Vec b) { return mask ? a : b; }

// 1 / x within a unit in the last place, for x from 1 to 1e38: an estimate made better once (Newton), in a third of the
// time of a division.
static inline Vec reciprocal(Vec x) {
#if defined(__AVX512F__)
  const Vec y = _mm512_rcp14_ps(x);
  return fma(y, fma(-x, y, splat(1.0f)), y);
#else
  return splat(1.0f) / x;
#endif
}

// e^-x is 0 there, and exp_normal still gives it.
#if defined(__AVX512F__)
constexpr float kExpEnds = 104.5f;
#else
constexpr float kExpEnds = 88.03f;  // 2^-127, whose exponent is that of 0
#endif

// e^-x for x from -87 on, of which a sigmoid is made.
static inline Vec exp_of_minus(Vec x) { return exp_normal(-at_most(x, kExpEnds)); }

// sigmoid(x) of e^-x, and with it 1 - sigmoid(x), neither by cancellation.
static inline void sigmoid_and_rest(Vec e, Vec& s, Vec& rest) {
  s = reciprocal(splat(1.0f) + e);
  rest = e * s;
}

// The share of N(0, 1) below x, (1 + erf(x / sqrt 2)) / 2: relative error below 1e-6 for x > -1, growing
// with x^2 to 4e-6 at -8 (the rounding of x^2 in the exponential).
// erfc(z) = t exp(-z^2 + polynomial in t), t = 1 / (1 + z / 2), z >= 0: the Chebyshev fit of Numerical
// Recipes (Press et al., section 6.2), fractional error 1.2e-7.
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
