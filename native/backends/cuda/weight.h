// An element of a weight matrix on the device, as ops/weight.h defines it.
#pragma once

#include "backends/cuda/kernel.h"
#include "ops/code8.h"
#include "ops/weight.h"

namespace nibble::cuda {

// What kernels are given of a Weight.
struct WeightView {
  int64_t out, in;
  const void* data;
  bool quantized;
  DType dtype;         // dense: of the elements; 4-bit: what decoded values are rounded to
  int block_shift;     // a block has 1 << block_shift elements
  const void* absmax;  // float32, or uint8 where nested_absmax is given
  const float *nested_absmax, *nested_map;
  float nested_offset;
  float value[16];

  NIBBLE_HD float constant(int64_t block) const {
    if (nested_absmax == nullptr) return static_cast<const float*>(absmax)[block];
    const uint8_t code = static_cast<const uint8_t*>(absmax)[block];
    return nested_constant(nested_map, code, nested_absmax[block / kBlock8], nested_offset);
  }
  // One at a time: where speed does not matter.
  NIBBLE_HD float element(int64_t o, int64_t i) const {
    const int64_t e = o * in + i;
    if (!quantized) return load(data, dtype, e);
    const uint8_t byte = static_cast<const uint8_t*>(data)[e / 2];
    return round_to(dtype, value[e % 2 == 0 ? byte >> 4 : byte & 15] * constant(e >> block_shift));
  }
};

inline WeightView view_of(const Weight& w) {
  WeightView v{.out = w.out, .in = w.in, .data = w.data.data, .quantized = w.quantized,
               .dtype = w.quantized ? w.dtype : w.data.dtype};
  if (!w.quantized) return v;
  while ((int64_t{1} << v.block_shift) < w.block_size) ++v.block_shift;
  v.absmax = w.absmax.data;
  v.nested_absmax = w.nested_absmax.f32();
  v.nested_map = w.nested_map.f32();
  v.nested_offset = w.nested_offset;
  const Codebook4 book = dequantize_codebook4(w.type, w.out * w.in);
  for (int i = 0; i < 16; ++i) v.value[i] = book.value[i];
  return v;
}

}  // namespace nibble::cuda
