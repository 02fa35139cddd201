// y = x W^T + bias for few rows of x, decoding's product: each weight is read once.
#pragma once

#include "backends/cuda/weight.h"

namespace nibble::cuda {

constexpr int64_t kFewRows = 8;

// Whether multiply_few_rows() takes them: at most kFewRows rows, which begin at multiples of 16 bytes as those of W do.
bool takes_few_rows(const Tensor& x, const WeightView& w);
// x, y: float32 or bfloat16, alike. bias may be null.
void multiply_few_rows(const Tensor& x, const WeightView& w, const float* bias, const Tensor& y);

}  // namespace nibble::cuda
