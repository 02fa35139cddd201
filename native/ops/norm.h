// RMSNorm (Zhang & Sennrich, arXiv:1910.07467) and LayerNorm, with the residual addition: contract.
//
// forward:  s = x + residual, rounded to x's dtype (residual empty: s = x);  sum = s when given
//   rmsnorm:   y = weight * (s * rstd),  rstd = 1 / sqrt(mean(s^2) + eps)
//   layernorm: y = weight * ((s - mean) * rstd) + bias,  rstd = 1 / sqrt(var(s) + eps)
// backward: d_s from d_y, plus d_sum when given (the gradient that reached `sum` by the residual path).
//   d_s is the gradient of both x and residual.  d_weight +=, d_bias += (parameters accumulate).
// x, residual, y, sum and their gradients: [N, C] float32 | bfloat16, all alike; weight, bias float32 [C].
// sum may alias x, d_s may alias d_sum. Statistics are float32, sums inside are float32 or better.
#pragma once

#include "ops/dims.h"
#include "core/tensor.h"

namespace nibble {

enum class Norm : uint8_t { kRms, kLayer };

struct NormForwardArgs {
  Norm kind;
  Tensor x;
  Tensor residual;  // may be empty
  Tensor weight;    // [C] float32
  Tensor bias;      // [C] float32, layernorm only; may be empty
  float eps;
  Tensor y;     // out
  Tensor sum;   // out; may be empty when residual is
  Tensor mean;  // out [N] float32; layernorm only
  Tensor rstd;  // out [N] float32
};

struct NormBackwardArgs {
  Norm kind;
  Tensor d_y;
  Tensor d_sum;   // may be empty
  Tensor s;       // what was normalized: `sum`, or x without residual
  Tensor weight;
  Tensor mean, rstd;
  Tensor d_s;       // out
  Tensor d_weight;  // in/out [C] float32; may be empty
  Tensor d_bias;    // in/out [C] float32; may be empty
};

void norm_forward(const NormForwardArgs& args);
void norm_backward(const NormBackwardArgs& args);

}  // namespace nibble
