// AdamW (Loshchilov & Hutter, arXiv:1711.05101) in PyTorch's order, with 32-bit or blockwise 8-bit state
// (Dettmers et al., arXiv:2110.02861): contract.
//   g' = grad_scale * g (the caller's clipping)
//   p *= 1 - lr * weight_decay;  m = b1 m + (1 - b1) g';  v = b2 v + (1 - b2) g'^2
//   p -= lr / (1 - b1^step) * m / (sqrt(v) / sqrt(1 - b2^step) + eps)
// 8-bit: m, v are decoded from the signed and the unsigned dynamic map in blocks of 256, the update uses
// the new unquantized m, v, then they are coded again. Bit-equal state to bitsandbytes' CPU backend.
#pragma once

#include "core/tensor.h"

namespace nibble {

struct AdamwArgs {
  Tensor p;  // in/out float32
  Tensor g;  // float32
  Tensor m, v;                // in/out: float32, or uint8 with the absmax below
  Tensor m_absmax, v_absmax;  // in/out [ceil(n / 256)] float32; empty for 32-bit state
  double lr, beta1, beta2, eps, weight_decay, grad_scale;
  int64_t step;  // 1, 2, ...
};

// The float32 factors of one step, the same on every backend.
struct AdamwFactors {
  float grad_scale, decay, beta1, gain1, beta2, gain2, step_size, root, eps;
};
AdamwFactors adamw_factors(const AdamwArgs& args);

void adamw(const AdamwArgs& args);

// Sum of squares in double precision, in an order that does not depend on the number of threads.
double sum_squares(const Tensor& x);

}  // namespace nibble
