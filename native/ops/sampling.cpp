#include "ops/sampling.h"

#include <cmath>

#include "ops/backend.h"
#include "ops/checks.h"

namespace nibble {

Sample sample(const SampleArgs& a) {
  const char* op = "sample";
  check_dtype(op, "logits", a.logits, DType::kF32);
  require(a.logits.rank == 2 && a.logits.dim(1) >= 1 && a.logits.dim(1) <= INT32_MAX, op,
          "logits: expected shape [rows,V] with V >= 1, got ", a.logits);
  require(a.row >= 0 && a.row < a.logits.dim(0), op, "row: expected a row of logits ", a.logits,
          ", got ", a.row);
  require(std::isfinite(a.temperature) && a.temperature >= 0, op, "temperature: expected a finite number >= 0, got ",
          a.temperature);
  require(a.top_k >= 0, op, "top_k: expected 0 (all) or more, got ", a.top_k);
  require(a.top_p > 0 && a.top_p <= 1, op, "top_p: expected 0 < top_p <= 1, got ", a.top_p);
  require(a.min_p >= 0 && a.min_p <= 1, op, "min_p: expected 0 <= min_p <= 1, got ", a.min_p);
  require(std::isfinite(a.repetition_penalty) && a.repetition_penalty > 0, op,
          "repetition_penalty: expected a finite number > 0, got ", a.repetition_penalty);
  if (a.seen) check_indices(op, "seen", a.seen, a.logits.dim(1), a.logits.device);
  const Sample result = backend_of(a.logits.device).sample(a);
  require(result.token != kNoToken, op, "logits: expected finite numbers, row ", a.row,
          " holds NaN or Inf, or nothing above -Inf");
  return result;
}

}  // namespace nibble
