// One element of a weight matrix as ops/weight.h defines it: float32 steps, rounded to the weight's dtype.
#pragma once

#include "backends/reference/access.h"
#include "ops/code8.h"
#include "ops/weight.h"

namespace nibble::reference {

class WeightReader {
 public:
  explicit WeightReader(const Weight& w) : w_(w) {
    if (w.quantized) book_ = dequantize_codebook4(w.type, w.out * w.in);
  }

  double operator()(int64_t o, int64_t i) const {
    const int64_t e = o * w_.in + i;
    if (!w_.quantized) return get(w_.data, e);
    const uint8_t byte = w_.data.u8()[e / 2];
    return round_to(w_.dtype, book_.value[e % 2 == 0 ? byte >> 4 : byte & 15] * absmax(e / w_.block_size));
  }

 private:
  float absmax(int64_t block) const {
    if (!w_.nested_absmax) return w_.absmax.f32()[block];
    const float nested = w_.nested_absmax.f32()[block / kBlock8];
    return nested_constant(w_.nested_map.f32(), w_.absmax.u8()[block], nested, w_.nested_offset);
  }

  const Weight& w_;
  Codebook4 book_;
};

}  // namespace nibble::reference
