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

// What decoding takes, in shared memory. Values of codes lie in 16 banks of their own, so lanes do not wait for each other.
struct CodeTables {
  float value[16], nested[256];
};

// By all threads of a block, which then needs a barrier.
__device__ inline void share_tables(const WeightView& w, CodeTables* t) {
  if (threadIdx.x < 16) t->value[threadIdx.x] = w.value[threadIdx.x];
  for (int i = int(threadIdx.x); w.nested_map != nullptr && i < 256; i += int(blockDim.x)) t->nested[i] = w.nested_map[i];
}

// A block's constant as it lies in memory: what is loaded early and made a number late.
struct RawConstant {
  float single;  // or
  uint8_t code;
  float nested_absmax;
  bool is_given;
};

__device__ inline RawConstant fetch_constant(const WeightView& w, int64_t block) {
  if (w.nested_absmax == nullptr) return {.single = static_cast<const float*>(w.absmax)[block], .is_given = true};
  return {.code = static_cast<const uint8_t*>(w.absmax)[block], .nested_absmax = w.nested_absmax[block / kBlock8],
          .is_given = true};
}

__device__ inline float constant_of(const WeightView& w, const CodeTables& t, const RawConstant& raw) {
  if (w.nested_absmax == nullptr) return raw.single;
  return nested_constant(t.nested, raw.code, raw.nested_absmax, w.nested_offset);
}

// 8 codes as bfloat16; the first is in the high half of the first byte.
__device__ inline uint4 decode_pairs(uint32_t codes, float constant, const float* value) {
  const auto pair = [&](int k) {
    return pack_bf16(value[(codes >> (4 * k + 4)) & 15] * constant, value[(codes >> (4 * k)) & 15] * constant);
  };
  return make_uint4(pair(0), pair(2), pair(4), pair(6));
}

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
