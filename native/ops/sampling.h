// Choice of the next token from one row of logits: contract. In this order, as transformers does:
//   repetition penalty over `seen` (CTRL, arXiv:1909.05858: logit > 0 ? / p : * p), temperature, top-k,
//   top-p (nucleus, arXiv:1904.09751), min-p (arXiv:2407.01082); then a draw with Philox(seed, stream, 0).
// temperature 0 = the largest logit, the lowest id on a tie. Sorting is by (logit descending, id ascending).
//   top-p keeps token i while the probabilities of those before it sum to less than top_p; min-p keeps those
//   of at least min_p times the largest probability; the first token always stays.
//   draw: the first kept token at which the running sum of probabilities exceeds u times their total, with
//   u = 53 bits of the first two Philox words.
// A token of `seen` counts once however often it stands there. -Inf is a logit like any other; NaN, +Inf
// and a row of nothing but -Inf are INVALID_ARGUMENT.
#pragma once

#include <cfloat>
#include <cstdint>

#include "core/tensor.h"
#include "ops/philox.h"

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
  bool wants_logprob = true;
};

struct Sample {
  int32_t token;
  float logprob;  // of the token under softmax(logits), before any of the above; not to be read where it is not wanted
};

constexpr int32_t kNoToken = -1;  // a backend's answer to a row that has no distribution

// In [0, 1).
inline double draw_of(const SampleArgs& args) {
  const Philox4 words = philox4(args.seed, args.stream, 0);
  return double(((uint64_t{words.value[0]} << 32) | words.value[1]) >> 11) * 0x1p-53;
}

// In float32, kept finite.
inline float penalized(float logit, float penalty) {
  if (logit > 0) return logit / penalty > FLT_MAX ? FLT_MAX : logit / penalty;
  return logit * penalty < -FLT_MAX && logit >= -FLT_MAX ? -FLT_MAX : logit * penalty;
}

Sample sample(const SampleArgs& args);

}  // namespace nibble
