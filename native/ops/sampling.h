// Choice of the next token from one row of logits: contract. In this order, as transformers does:
//   repetition penalty over `seen` (CTRL, arXiv:1909.05858: logit > 0 ? / p : * p), temperature, top-k,
//   top-p (nucleus, arXiv:1904.09751), min-p (arXiv:2407.01082); then a draw with Philox(seed, stream, 0).
// temperature 0 = the largest logit, the lowest id on a tie. Sorting is by (logit descending, id ascending).
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace nibble {

struct SampleArgs {
  Tensor logits;  // [rows, V] float32
  int64_t row;
  float temperature;         // 0 = greedy
  int64_t top_k;             // 0 = all
  float top_p;               // 1 = all
  float min_p;               // 0 = all
  float repetition_penalty;  // 1 = none
  Tensor seen;               // [m] int32 ids; may be empty
  uint64_t seed, stream;
};

struct Sample {
  int32_t token;
  float logprob;  // of the token under softmax(logits), before any of the above
};

Sample sample(const SampleArgs& args);

}  // namespace nibble
