// Rotary position embedding (Su et al., arXiv:2104.09864) in the half-split layout of Llama checkpoints:
//   for j < D/2, p = positions[n]:
//     y[j]       = x[j] cos[p,j] - x[j + D/2] sin[p,j]
//     y[j + D/2] = x[j + D/2] cos[p,j] + x[j] sin[p,j]
// In place on x [N, heads * D]. The backward pass is the rotation by the opposite angle (inverse = true).
// The tables hold the scaling variants (linear, dynamic, llama3, yarn); the op does not know them.
#pragma once

#include "ops/dims.h"
#include "core/tensor.h"

namespace nibble {

struct RopeArgs {
  Tensor x;          // in/out [N, heads * D] float32 | bfloat16
  Tensor positions;  // [N] int32, each in [0, P)
  Tensor cos, sin;   // [P, D / 2] float32
  bool inverse = false;
};

void rope(const RopeArgs& args);

}  // namespace nibble
