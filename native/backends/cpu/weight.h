// Reads elements of a weight matrix as float32, 4-bit codes decoded on the way.
#pragma once

#include "backends/cpu/simd.h"
#include "ops/code8.h"
#include "ops/weight.h"

namespace nibble::cpu::NIBBLE_ISA {

static inline float weight_absmax(const Weight& w, int64_t block) {
  if (!w.nested_absmax) return w.absmax.f32()[block];
  const float scaled = w.nested_map.f32()[w.absmax.u8()[block]] * w.nested_absmax.f32()[block / kBlock8];
  return scaled + w.nested_offset;
}

static inline float round_to(DType dtype, float x) {
  if (dtype == DType::kBF16) return bf16_to_float(float_to_bf16(x));
  return dtype == DType::kF16 ? f16_to_float(float_to_f16(x)) : x;
}

static inline float weight_element(const Weight& w, const Codebook4& book, int64_t e) {
  if (w.quantized) {
    const uint8_t byte = w.data.u8()[e / 2];
    return round_to(w.dtype, book.value[e % 2 == 0 ? byte >> 4 : byte & 15] * weight_absmax(w, e / w.block_size));
  }
  if (w.data.dtype == DType::kF32) return w.data.f32()[e];
  return w.data.dtype == DType::kBF16 ? bf16_to_float(w.data.u16()[e]) : f16_to_float(w.data.u16()[e]);
}

}  // namespace nibble::cpu::NIBBLE_ISA
