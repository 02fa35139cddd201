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

void penalize(const SampleArgs& a, const float* logits, std::vector<Candidate>& all) {
  for (int64_t i = 0; a.seen && i < a.seen.count(); ++i) {
    const int32_t id = a.seen.i32()[i];
    all[size_t(id)].logit = penalized(logits[id], a.repetition_penalty);
  }
}

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

}  // namespace

Sample sample(const SampleArgs& a) {
  const int64_t vocabulary = a.logits.dim(1);
  const float* logits = a.logits.f32() + a.row * vocabulary;
  std::vector<Candidate> all;
  double top = -INFINITY, total = 0;
  for (int32_t id = 0; id < vocabulary; ++id) {
    if (std::isnan(logits[id]) || logits[id] == INFINITY) return {kNoToken, 0};
    all.push_back({id, logits[id], 0});
    top = std::max(top, double(logits[id]));
  }
  if (top == -INFINITY) return {kNoToken, 0};
  for (const Candidate& c : all) total += std::exp(c.logit - top);
  const auto logprob = [&](int32_t id) { return float(logits[id] - top - std::log(total)); };
  // [1] repetition penalty, temperature, order
  penalize(a, logits, all);
  for (Candidate& c : all) c.logit /= a.temperature == 0 ? 1.0 : double(a.temperature);
  std::stable_sort(all.begin(), all.end(), [](const Candidate& x, const Candidate& y) { return x.logit > y.logit; });
  if (a.temperature == 0) return {all[0].id, logprob(all[0].id)};
  // [2] top-k, top-p, min-p
  if (a.top_k > 0 && a.top_k < vocabulary) all.resize(size_t(a.top_k));
  softmax(all);
  if (a.top_p < 1) all.resize(top_p_count(all, a.top_p));
  const double floor = all[0].p * a.min_p;
  while (all.size() > 1 && all.back().p < floor) all.pop_back();
  // [3] draw
  double mass = 0, running = 0;
  for (const Candidate& c : all) mass += c.p;
  const double draw = draw_of(a) * mass;
  for (const Candidate& c : all) {
    running += c.p;
    if (running > draw) return {c.id, logprob(c.id)};
  }
  return {all.back().id, logprob(all.back().id)};
}

}  // namespace nibble::reference
