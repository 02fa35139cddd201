// Plain matrix loops, rows shared out among the threads.
#pragma once

#include "backends/cpu/weight.h"
#include "backends/cpu/workspace.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

// c[m, n] += a b; a is [m, k] read at a[m * a_row + k * a_column], b is [k, n] likewise.
static inline void plain_product(const float* a, int64_t a_row, int64_t a_column, const float* b, int64_t b_row,
                                 int64_t b_column, float* c, int64_t m, int64_t n, int64_t k) {
  parallel_for(m, [&](int64_t row) {
    float* out = c + row * n;
    for (int64_t p = 0; p < k; ++p) {
      const float factor = a[row * a_row + p * a_column];
      const float* from = b + p * b_row;
      if (b_column == 1) {
        for (int64_t j = 0; j < n; ++j) out[j] += factor * from[j];
      } else {
        for (int64_t j = 0; j < n; ++j) out[j] += factor * from[j * b_column];
      }
    }
  });
}

static inline float element(const Tensor& t, int64_t i) {
  return t.dtype == DType::kF32 ? t.f32()[i] : bf16_to_float(t.u16()[i]);
}

static inline void put(const Tensor& t, int64_t i, float x) {
  if (t.dtype == DType::kF32) t.f32()[i] = x;
  else t.u16()[i] = float_to_bf16(x);
}

static inline void widen_weight(const Weight& w, float* out) {
  const Codebook4 book = w.quantized ? dequantize_codebook4(w.type, w.out * w.in) : Codebook4{};
  parallel_for(w.out, [&](int64_t o) {
    for (int64_t i = 0; i < w.in; ++i) out[o * w.in + i] = weight_element(w, book, o * w.in + i);
  });
}

}  // namespace nibble::cpu::NIBBLE_ISA
