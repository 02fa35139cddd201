// The arithmetic of 4-bit blockwise quantization, shared by every backend, host and device, so that
// a digest of quantized bytes means one thing. Semantics are those of bitsandbytes' CPU backend:
//
//   x    = v * (1 / max(absmax, 1e-38))    in a full block     (a multiply by the reciprocal)
//   x    = v / max(absmax, 1e-38)          in a short last block (a division; absmax kept clamped)
//   rank = number of thresholds t with not (x <= t)            (ties go down; NaN goes to the top)
//   code = code_of_rank[rank]
//
// Thresholds are the float32 midpoints of the sorted code values.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/dtype.h"
#include "ops/code_tables.h"

namespace nibble {

enum class Code4 : uint8_t { kNf4, kFp4, kInt4 };

constexpr float kAbsmaxFloor = 1e-38f;  // bitsandbytes' clamp before the reciprocal

// One 4-bit data type: the value of each code and the sorted search over them.
struct Codebook4 {
  float value[16];
  float threshold[15];
  uint8_t code_of_rank[16];
};

NIBBLE_HD inline uint8_t nearest_code4(const Codebook4& book, float x) {
  int rank = 0;
  for (int half = 8; half > 0; half /= 2) rank += x <= book.threshold[rank + half - 1] ? 0 : half;
  return book.code_of_rank[rank];
}

NIBBLE_HD inline uint8_t pack4(uint8_t first, uint8_t second) { return uint8_t((first << 4) | second); }

// Built once per type; int4 is symmetric absmax, value (code - 8) / 7, where code 0 is never made.
const Codebook4& codebook4(Code4 type);

// The values for a tensor of `count` elements. bitsandbytes dequantizes an odd count by another path,
// where FP4's code 8 gives +0 instead of -0.
Codebook4 dequantize_codebook4(Code4 type, int64_t count);

}  // namespace nibble
