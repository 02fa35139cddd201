#include "ops/sampling.h"

#include <gtest/gtest.h>

#include "test/support.h"

namespace nibble::test {

TEST(Sampling, DrawsTheTokensOfTheReference) {
  for (int64_t vocabulary : {1, 2, 15, 17, 300})
    for (float temperature : {0.0f, 0.5f, 3.0f})
      for (int64_t top_k : {0, 1, 7, 1000})
        for (float top_p : {1.0f, 0.7f})
          expect_like_reference("sample", 1e-6, [&](Bench& b) {
            const Tensor tokens = b.out(DType::kI32, {6}), logprobs = b.out(DType::kF32, {6});
            const Tensor logits = b.random(DType::kF32, {2, vocabulary}, 4), seen = b.indices(5, vocabulary);
            for (int64_t i = 0; i < 6; ++i) {
              const Sample s = sample({.logits = logits, .row = 1, .temperature = temperature, .top_k = top_k,
                                       .top_p = top_p, .min_p = 0.01f, .repetition_penalty = 1.3f, .seen = seen,
                                       .seed = 3, .stream = uint64_t(i)});
              put(tokens, i, s.token);
              put(logprobs, i, s.logprob);
            }
          });
}

TEST(Sampling, RefusesRowsWithoutADistribution) {
  for (Device device : {Device::kCpu, Device::kReference})
    for (double bad : {double(NAN), double(INFINITY), -double(INFINITY)}) {
      Bench b(device);
      const SampleArgs a{.logits = b.filled(DType::kF32, {1, 20}, bad), .row = 0, .temperature = 1, .top_p = 1,
                         .repetition_penalty = 1};
      expect_error("[sample] logits: expected finite numbers", [&] { sample(a); });
    }
}

}  // namespace nibble::test
