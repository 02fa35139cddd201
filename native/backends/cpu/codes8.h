// 8-bit codes of a dynamic map, in vectors: nearest_code8 of ops/code8.h, bit for bit.
#pragma once

#include <string.h>

#include "backends/cpu/elements.h"
#include "backends/cpu/math.h"
#include "ops/code8.h"

namespace nibble::cpu::NIBBLE_ISA {

inline float largest_magnitude(const float* x, int64_t count) {
  Vec top{};
  each_vector(0, count, [&](int64_t i, int n) NIBBLE_INLINE {
    const Vec magnitude = (Vec)((UVec)load(x + i, n) & 0x7fffffffu);
    top = magnitude > top ? magnitude : top;
  });
  return max(top);
}

// Codes of x over its largest magnitude, which is returned; 0 of a block of zeros. Only the look-up is not in vectors.
inline float encode8(const Codebook8& book, const float* x, int64_t count, uint8_t* code) {
  const float absmax = largest_magnitude(x, count);
  if (absmax == 0) {
    memset(code, 0, size_t(count));
    return absmax;
  }
  const float inverse = 1.0f / absmax;
  each_vector(0, count, [&](int64_t i, int n) NIBBLE_INLINE {
    Vec v = load(x + i, n) * splat(inverse);
    v = v > splat(-1.0f) ? (v < splat(1.0f) ? v : splat(1.0f)) : splat(-1.0f);
    const Vec step = ((v + splat(1.0f)) * splat(0.5f)) * splat(65535.0f) + splat(0.5f);
    const IVec at = __builtin_convertvector(step, IVec);
    for (int k = 0; k < n; ++k) code[i + k] = book.nearest[at[k] & 0xffff];
  });
  return absmax;
}

}  // namespace nibble::cpu::NIBBLE_ISA
