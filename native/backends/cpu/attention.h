// What prefill and decode share on the CPU: rows as float32, dot products, softmax in one pass.
#pragma once

#include <math.h>

#include "backends/cpu/simd.h"
#include "core/tensor.h"

namespace nibble::cpu::NIBBLE_ISA {

static inline int64_t first_seen(int64_t window, int64_t begin, int64_t i) {
  return window > 0 && i - window + 1 > begin ? i - window + 1 : begin;
}

static inline void widen(const Tensor& t, int64_t start, int64_t count, float* out) {
  if (t.dtype == DType::kF32) memcpy(out, t.f32() + start, size_t(count) * 4);
  if (t.dtype == DType::kBF16)
    for (int64_t i = 0; i < count; ++i) out[i] = bf16_to_float(t.u16()[start + i]);
}

static inline void narrow(const float* in, int64_t count, const Tensor& t, int64_t start) {
  if (t.dtype == DType::kF32) memcpy(t.f32() + start, in, size_t(count) * 4);
  if (t.dtype == DType::kBF16)
    for (int64_t i = 0; i < count; ++i) t.u16()[start + i] = float_to_bf16(in[i]);
}

static inline float dot(const float* a, const float* b, int64_t count) {
  Vec total{};
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) total = fma(load(a + i), load(b + i), total);
  float result = sum(total);
  for (; i < count; ++i) result += a[i] * b[i];
  return result;
}

// Weighted mean of rows whose scores come one at a time.
class OnlineSoftmax {
 public:
  OnlineSoftmax(int64_t count, float* out) : count_(count), out_(out) {
    for (int64_t c = 0; c < count; ++c) out[c] = 0;
  }
  void add(float score, const float* row) {
    if (score > top_) {
      const float shrink = expf(top_ - score);
      for (int64_t c = 0; c < count_; ++c) out_[c] *= shrink;
      sum_ *= shrink;
      top_ = score;
    }
    const float weight = expf(score - top_);
    sum_ += weight;
    for (int64_t c = 0; c < count_; ++c) out_[c] += weight * row[c];
  }
  // The log of the sum of the scores' exponentials.
  float finish() {
    for (int64_t c = 0; c < count_; ++c) out_[c] /= sum_;
    return top_ + logf(sum_);
  }

 private:
  int64_t count_;
  float* out_;
  float top_ = -INFINITY, sum_ = 0;
};

}  // namespace nibble::cpu::NIBBLE_ISA
