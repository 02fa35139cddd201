// The arithmetic of 8-bit blockwise quantization with a dynamic map (arXiv:2110.02861), used for the
// block constants of double quantization and for 8-bit optimizer state. The search is bitsandbytes'
// CPU one: a table over 65536 steps of [-1, 1], coarse near zero, reproduced because its bytes are
// what existing checkpoints hold.
#pragma once

#include <cstdint>

#include "core/portable.h"

namespace nibble {

constexpr int64_t kBlock8 = 256;

struct Codebook8 {
  float value[256];
  uint8_t nearest[65536];  // code of the step t, see nearest_code8
};

// x in [-1, 1] (clamped; NaN counts as -1).
NIBBLE_HD inline uint8_t nearest_code8(const Codebook8& book, float x) {
  x = x > -1.0f ? (x < 1.0f ? x : 1.0f) : -1.0f;
  const float step = ((x + 1.0f) * 0.5f) * 65535.0f + 0.5f;
  return book.nearest[uint32_t(step) & 0xffffu];
}

// A block's constant under double quantization, from its code, the constant of its own block and the offset.
NIBBLE_HD inline float nested_constant(const float* map, uint8_t code, float nested_absmax, float offset) {
  const float scaled = map[code] * nested_absmax;
  return scaled + offset;
}

const Codebook8& codebook8_signed();    // block constants, first moments
const Codebook8& codebook8_unsigned();  // second moments

}  // namespace nibble
