#include "ops/sampling.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "backends/reference/ops.h"

namespace nibble::reference {

namespace {

struct Candidate {
  int32_t id;
  double logit, p;
};

// p of the candidates, which become all there is.
void softmax(std::vector<Candidate>& kept) {
  double total = 0;
  for (Candidate& c : kept) total += c.p = std::exp(c.logit - kept[0].logit);
  for (Candidate& c : kept) c.p /= total;
}

size_t top_p_count(const std::vector<Candidate>& kept, double top_p) {
  double before = 0;
  size_t count = 0;
  while (count < kept.size() && (count == 0 || before < top_p)) before += kept[count++].p;
  return count;
}

// The kept candidates in order, after [1] temperature and order, [2] top-k, top-p, min-p.
std::vector<Candidate> kept_of(const SampleArgs& a, const std::vector<float>& logits) {
  std::vector<Candidate> all;
  for (size_t id = 0; id < logits.size(); ++id)
    all.push_back({int32_t(id), logits[id] / (a.temperature == 0 ? 1.0 : double(a.temperature)), 0});
  std::stable_sort(all.begin(), all.end(), [](const Candidate& x, const Candidate& y) { return x.logit > y.logit; });
  if (a.temperature == 0) all.resize(1);
  if (a.top_k > 0 && a.top_k < int64_t(all.size())) all.resize(size_t(a.top_k));
  softmax(all);
  if (a.top_p < 1) all.resize(top_p_count(all, a.top_p));
  const double floor = all[0].p * a.min_p;
  while (all.size() > 1 && all.back().p < floor) all.pop_back();
  return all;
}

// [3]
int32_t draw(const SampleArgs& a, const std::vector<Candidate>& kept) {
  double mass = 0, running = 0;
  for (const Candidate& c : kept) mass += c.p;
  const double at = draw_of(a) * mass;
  for (const Candidate& c : kept) {
    running += c.p;
    if (running > at) return c.id;
  }
  return kept.back().id;
}

bool is_distribution(const std::vector<float>& logits) {
  bool any = false;
  for (float x : logits) {
    if (std::isnan(x) || x == INFINITY) return false;
    any = any || x > -INFINITY;
  }
  return any;
}

Sample sample_row(const Tensor& t, const SampleArgs& a) {
  const float* row = t.f32() + a.row * t.dim(1);
  std::vector<float> logits(row, row + t.dim(1));
  if (!is_distribution(logits)) return {kNoToken, 0};
  const double top = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (float x : logits) total += std::exp(x - top);
  std::vector<int32_t> counts(logits.size());
  change_logits(a, logits.data(), t.dim(1), counts.data());
  if (!is_distribution(logits)) return {kNoToken, 0};
  const int32_t token = draw(a, kept_of(a, logits));
  return {token, float(row[token] - top - std::log(total))};
}

}  // namespace

void sample(const Tensor& logits, const SampleArgs* rows, int count, Sample* results) {
  for (int i = 0; i < count; ++i) results[i] = sample_row(logits, rows[i]);
}

}  // namespace nibble::reference
