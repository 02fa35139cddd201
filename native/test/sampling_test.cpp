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
            const Tensor logits = b.random(DType::kF32, {2, vocabulary}, 4), ids = b.indices(5, vocabulary);
            std::vector<int32_t> seen;
            for (int64_t i = 0; i < 5; ++i) seen.push_back(int32_t(get(ids, i)));
            const std::vector<uint32_t> allowed(10, 0xfffffff1u);
            std::vector<SampleArgs> rows(6);
            for (size_t i = 0; i < rows.size(); ++i) {
              rows[i] = {.row = int64_t(i % 2), .temperature = temperature, .top_k = top_k, .top_p = top_p,
                         .min_p = 0.01f, .repetition_penalty = 1.3f, .frequency_penalty = 0.5f, .presence_penalty = 0.25f,
                         .seen = seen.data(), .seen_count = 5, .answer_count = 3, .seed = 3, .stream = i};
              if (i % 3 == 0) rows[i].allowed = allowed.data(), rows[i].allowed_words = 10;
            }
            std::vector<Sample> drawn(rows.size());
            sample(logits, rows.data(), int(rows.size()), drawn.data());
            for (size_t i = 0; i < rows.size(); ++i) {
              put(tokens, int64_t(i), drawn[i].token);
              put(logprobs, int64_t(i), drawn[i].logprob);
            }
          });
}

TEST(Sampling, RowsWithoutADistributionGiveNoToken) {
  for (Device device : {Device::kCpu, Device::kReference})
    for (double bad : {double(NAN), double(INFINITY), -double(INFINITY)}) {
      Bench b(device);
      const Tensor logits = b.filled(DType::kF32, {1, 20}, bad);
      const SampleArgs a{.row = 0, .temperature = 1};
      Sample drawn;
      sample(logits, &a, 1, &drawn);
      EXPECT_EQ(drawn.token, kNoToken);
    }
}

}  // namespace nibble::test
