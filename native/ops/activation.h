// Activations of feed-forward layers, gated or plain: contract.
//   gated (u given):  y = act(g) * u       swiglu = silu, geglu = gelu (Shazeer, arXiv:2002.05202)
//   plain (u empty):  y = act(g)
// backward: d_g = d_y * u * act'(g), d_u = d_y * act(g); where y is given, also y again, for a caller who did not keep
// it (silu: the same bits). All [N, F], float32 | bfloat16, alike.
// y may alias g or u, d_g may alias g and d_u may alias u; in the backward pass y may alias d_y.
#pragma once

#include "ops/dims.h"
#include "core/tensor.h"

namespace nibble {

// gelu is exact (erf), gelu_tanh its usual approximation.
enum class Activation : uint8_t { kSilu, kGelu, kGeluTanh, kRelu };

struct ActivationForwardArgs {
  Activation kind;
  Tensor g, u;  // u may be empty
  Tensor y;     // out
};

struct ActivationBackwardArgs {
  Activation kind;
  Tensor d_y, g, u;
  Tensor d_g, d_u;  // out
  Tensor y;         // out; may be empty
};

void activation_forward(const ActivationForwardArgs& args);
void activation_backward(const ActivationBackwardArgs& args);

}  // namespace nibble
