// Choice of the next tokens from rows of logits: contract. In this order:
//   logit -= frequency_penalty * (how often the answer has the token) + presence_penalty (if it has it), as OpenAI's API;
//   what is not allowed becomes -Inf;  then as transformers does:
//   repetition penalty over `seen` (CTRL, arXiv:1909.05858: logit > 0 ? / p : * p), temperature, top-k,
//   top-p (nucleus, arXiv:1904.09751), min-p (arXiv:2407.01082); then a draw with Philox(seed, stream, 0).
// temperature 0 = the largest logit, the lowest id on a tie. Sorting is by (logit descending, id ascending).
//   top-p keeps token i while the probabilities of those before it sum to less than top_p; min-p keeps those
//   of at least min_p times the largest probability; the first token always stays.
//   draw: the first kept token at which the running sum of probabilities exceeds u times their total, with
//   u = 53 bits of the first two Philox words.
// A token of `seen` counts once however often it stands there. -Inf is a logit like any other; a row with NaN or +Inf, or
// with nothing but -Inf, gives kNoToken. A row's token does not depend on the other rows of the call.
#pragma once

#include <cfloat>
#include <cstdint>

#include "core/tensor.h"
#include "ops/philox.h"

namespace nibble {

// What is asked of a row. Pointers are the host's, whatever the device.
struct SampleArgs {
  int64_t row;
  float temperature;             // 0 = greedy
  int64_t top_k = 0;             // 0 = all
  float top_p = 1;               // 1 = all
  float min_p = 0;               // 0 = all
  float repetition_penalty = 1;  // 1 = none
  float frequency_penalty = 0, presence_penalty = 0;
  const int32_t* seen = nullptr;  // [seen_count] ids that the penalties are for
  int64_t seen_count = 0;
  int64_t answer_count = 0;       // the last so many of `seen` are the answer's
  // A bit for each token, the lowest of a word first; null: all may come. Tokens without a bit may not.
  const uint32_t* allowed = nullptr;
  int64_t allowed_words = 0;
  uint64_t seed = 0, stream = 0;
  bool wants_logprob = true;

  // Whether the token is drawn from other logits than the model's.
  bool changes_logits() const {
    return allowed != nullptr || (seen_count > 0 && repetition_penalty != 1) ||
           (answer_count > 0 && (frequency_penalty != 0 || presence_penalty != 0));
  }
};

struct Sample {
  int32_t token;
  float logprob;  // of the token under softmax(logits), before any of the above; not to be read where it is not wanted
};

constexpr int32_t kNoToken = -1;  // of a row that has no distribution

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

// Changes a copy of a row of logits as `args` ask. counts: [vocabulary] zeros, scratch.
void change_logits(const SampleArgs& args, float* logits, int64_t vocabulary, int32_t* counts);

// results: [count]. logits: float32 [rows, V].
void sample(const Tensor& logits, const SampleArgs* rows, int count, Sample* results);

}  // namespace nibble
