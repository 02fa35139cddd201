// Row lookup: contract.
// forward:  y[n] = table[ids[n]], converted to y's dtype.   backward: d_table[ids[n]] += d_y[n].
// It also serves to gather rows: table = any [M, C] tensor.
#pragma once

#include "ops/dims.h"
#include "core/tensor.h"

namespace nibble {

struct EmbeddingForwardArgs {
  Tensor table;  // [V, C] float32 | bfloat16 | float16
  Tensor ids;    // [N] int32, each in [0, V)
  Tensor y;      // out [N, C] float32 | bfloat16
};

struct EmbeddingBackwardArgs {
  Tensor d_y;      // [N, C] float32 | bfloat16
  Tensor ids;      // [N] int32
  Tensor d_table;  // in/out [V, C] float32 | bfloat16
};

void embedding_forward(const EmbeddingForwardArgs& args);
void embedding_backward(const EmbeddingBackwardArgs& args);

}  // namespace nibble
