// The output layer and its cross-entropy in one op, a block of the vocabulary at a time, so that the logits never exist
// whole (Wijmans et al., arXiv:2411.09009): contract.
//
//   logits = x W^T;  loss[n] = weights[n] * (logsumexp(logits[n]) - logits[n, labels[n]]), 0 where labels[n] < 0
//   with d_x:  d_x[n] = s[n] * (softmax(logits[n]) - onehot(labels[n])) W with s = scale * weights, 0 where labels[n] < 0
//   with d_w:  d_w += sum over n of s[n] * (softmax - onehot)^T x
// Where x is bfloat16, s * (softmax - onehot) is rounded to bfloat16 for d_w. For d_x, e^(logit - the largest so far)
// may be rounded to it where W is bfloat16 too; softmax - 1 of the label is not.
// The forward pass gives the gradients too: the caller knows scale (1 / the step's sum of weights)
// beforehand, so the dear product is not done twice. Rows without a label cost nothing.
#pragma once

#include "ops/dims.h"
#include "ops/weight.h"

namespace nibble {

struct CrossEntropyArgs {
  Tensor x;       // [N, C] float32 | bfloat16
  Weight w;       // [V, C]
  Tensor labels;  // [N] int32, already shifted; below 0 = not trained
  Tensor weights;  // [N] float32, finite, not below 0; empty: 1 for each
  float scale;
  Tensor loss;  // out [N] float32
  Tensor d_x;   // out [N, C], dtype of x; may be empty
  Tensor d_w;   // in/out [V, C] float32; may be empty; W dense

  // Of row n, where the host reads the weights.
  float weight_of(int64_t n) const { return weights ? weights.f32()[n] : 1.0f; }
};

void linear_cross_entropy(const CrossEntropyArgs& args);

}  // namespace nibble
