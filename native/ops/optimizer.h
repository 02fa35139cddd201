// AdamW (Loshchilov & Hutter, arXiv:1711.05101) in PyTorch's order, with 32-bit or blockwise 8-bit state
// (Dettmers et al., arXiv:2110.02861): contract.
//   g' = grad_scale * g (the caller's clipping)
//   p *= 1 - lr * weight_decay;  m = b1 m + (1 - b1) g';  v = b2 v + (1 - b2) g'^2
//   p -= lr / (1 - b1^step) * m / (sqrt(v) / sqrt(1 - b2^step) + eps)
// 8-bit: m, v are decoded from the signed and the unsigned dynamic map in blocks of 256, the update uses
// the new unquantized m, v, then they are coded again. Bit-equal state to bitsandbytes' CPU backend.
#pragma once

#include <cmath>

#include "core/portable.h"
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

// One element, in float32, each step rounded once, as bitsandbytes' CPU backend does it: 8-bit state depends on it.
// m and v hold the old moments times beta, then the new ones.
NIBBLE_HD inline void adamw_moments(const AdamwFactors& f, float gradient, float& m, float& v) {
  const float g = gradient * f.grad_scale;
  m = std::fma(g, f.gain1, m);
  v = std::fma(g * f.gain2, g, v);
}
NIBBLE_HD inline float adamw_parameter(const AdamwFactors& f, float p, float m, float v) {
  return p * f.decay - f.step_size * (m / (std::sqrt(v) / f.root + f.eps));
}

// Parameters of one device; every argument is checked before any parameter changes.
void adamw(const AdamwArgs* all, int count);
inline void adamw(const AdamwArgs& args) { adamw(&args, 1); }

// Sum of squares of all elements of tensors of one device, in double precision, in an order that does not depend on the
// number of threads. On a device the sum of all of them is waited for once.
double sum_squares(const Tensor* all, int count);
inline double sum_squares(const Tensor& x) { return sum_squares(&x, 1); }

}  // namespace nibble
