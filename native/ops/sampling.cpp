#include "ops/sampling.h"

#include <cmath>

#include "ops/backend.h"
#include "ops/checks.h"

namespace nibble {

namespace {

constexpr const char* kOp = "sample";

void check_seen(const SampleArgs& a, int64_t vocabulary) {
  require(a.answer_count >= 0 && a.answer_count <= a.seen_count, kOp, "answer: expected 0..", a.seen_count, ", got ",
          a.answer_count);
  for (int64_t i = 0; i < a.seen_count; ++i)
    require(a.seen[i] >= 0 && a.seen[i] < vocabulary, kOp, "seen: expected values in [0,", vocabulary, "), got ", a.seen[i],
            " at index ", i);
}

void check_row(const Tensor& logits, const SampleArgs& a) {
  require(a.row >= 0 && a.row < logits.dim(0), kOp, "row: expected a row of logits ", logits, ", got ", a.row);
  require(std::isfinite(a.temperature) && a.temperature >= 0, kOp, "temperature: expected a finite number >= 0, got ",
          a.temperature);
  require(a.top_k >= 0, kOp, "top_k: expected 0 (all) or more, got ", a.top_k);
  require(a.top_p > 0 && a.top_p <= 1, kOp, "top_p: expected 0 < top_p <= 1, got ", a.top_p);
  require(a.min_p >= 0 && a.min_p <= 1, kOp, "min_p: expected 0 <= min_p <= 1, got ", a.min_p);
  require(std::isfinite(a.repetition_penalty) && a.repetition_penalty > 0, kOp,
          "repetition_penalty: expected a finite number > 0, got ", a.repetition_penalty);
  require(std::isfinite(a.frequency_penalty) && std::isfinite(a.presence_penalty), kOp,
          "frequency_penalty, presence_penalty: expected finite numbers, got ", a.frequency_penalty, " and ",
          a.presence_penalty);
  check_seen(a, logits.dim(1));
}

void forbid(const SampleArgs& a, float* logits, int64_t vocabulary) {
  for (int64_t id = 0; id < vocabulary; ++id) {
    const bool may_come = id / 32 < a.allowed_words && (a.allowed[id / 32] >> (id % 32) & 1) != 0;
    if (!may_come) logits[id] = -INFINITY;
  }
}

}  // namespace

void change_logits(const SampleArgs& a, float* logits, int64_t vocabulary, int32_t* counts) {
  constexpr int32_t kDone = -1;
  const int32_t* const answer = a.seen + (a.seen_count - a.answer_count);
  for (int64_t i = 0; i < a.answer_count; ++i) ++counts[answer[i]];
  for (int64_t i = 0; i < a.answer_count; ++i) {
    int32_t& count = counts[answer[i]];
    if (count != kDone) logits[answer[i]] -= a.frequency_penalty * float(count) + a.presence_penalty;
    count = kDone;
  }
  if (a.allowed != nullptr) forbid(a, logits, vocabulary);
  constexpr int32_t kPenalized = -2;
  for (int64_t i = 0; i < a.seen_count && a.repetition_penalty != 1; ++i) {
    const int32_t id = a.seen[i];
    if (counts[id] != kPenalized) logits[id] = penalized(logits[id], a.repetition_penalty);
    counts[id] = kPenalized;
  }
}

void sample(const Tensor& logits, const SampleArgs* rows, int count, Sample* results) {
  check_dtype(kOp, "logits", logits, DType::kF32);
  require(logits.rank == 2 && logits.dim(1) >= 1 && logits.dim(1) <= INT32_MAX, kOp,
          "logits: expected shape [rows,V] with V >= 1, got ", logits);
  for (int i = 0; i < count; ++i) check_row(logits, rows[i]);
  backend_of(logits.device).sample(logits, rows, count, results);
}

}  // namespace nibble
