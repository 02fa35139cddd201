// Same steps as backends/reference/sampling.cpp: exponentials in float32 vectors, sums in float64.
#include "ops/sampling.h"

#include <math.h>

#include "backends/cpu/elements.h"
#include "backends/cpu/ops.h"
#include "backends/cpu/vector_math.h"
#include "backends/cpu/workspace.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

// A token and its logit as an integer that orders descending logits upwards.
struct Candidate {
  uint32_t key;
  int32_t id;
};

uint32_t key_of(float logit) {
  const uint32_t bits = float_to_bits(logit + 0.0f);  // -0 becomes 0
  return bits & 0x80000000u ? bits : 0x7fffffffu - bits;
}

float logit_of(uint32_t key) { return bits_to_float(key & 0x80000000u ? key : 0x7fffffffu - key); }

// Sorts by key; equal keys keep their order. Returns the array that holds the result.
Candidate* sort_by_key(Candidate* from, Candidate* spare, int64_t count) {
  for (int shift = 0; shift < 32; shift += 8) {
    int64_t start[257] = {};
    for (int64_t i = 0; i < count; ++i) ++start[((from[i].key >> shift) & 255u) + 1];
    for (int b = 0; b < 256; ++b) start[b + 1] += start[b];
    for (int64_t i = 0; i < count; ++i) spare[start[(from[i].key >> shift) & 255u]++] = from[i];
    Candidate* const sorted = spare;
    spare = from;
    from = sorted;
  }
  return from;
}

// The largest value, or NaN if the row holds NaN or +Inf or nothing above -Inf.
float checked_max(const float* x, int64_t count) {
  Vec highest = splat(-INFINITY);
  IVec bad{};
  each_vector(0, count, [&](int64_t i, int n) {
    float part[kWidth];
    for (int l = 0; l < kWidth; ++l) part[l] = -INFINITY;
    memcpy(part, x + i, size_t(n) * 4);
    const Vec v = load(part);
    bad |= ~(v < splat(INFINITY));
    highest = v > highest ? v : highest;
  });
  float top = -INFINITY;
  bool any = false;
  for (int l = 0; l < kWidth; ++l) {
    any |= bad[l] != 0;
    top = highest[l] > top ? highest[l] : top;
  }
  return any || top == -INFINITY ? NAN : top;
}

double exp_sum(const float* x, int64_t count, float top) {
  double total = 0;
  for (int64_t i = 0; i + kWidth <= count; i += kWidth) total += double(sum(exp(load(x + i) - splat(top))));
  for (int64_t i = count / kWidth * kWidth; i < count; ++i) total += ::exp(double(x[i]) - double(top));
  return total;
}

// p = exp((logit - top) / temperature) of sorted candidates; their sum.
double weigh(const Candidate* c, int64_t count, float temperature, float* p) {
  const float top = logit_of(c[0].key);
  for (int64_t i = 0; i < count; ++i) p[i] = i == 0 ? 0 : (logit_of(c[i].key) - top) / temperature;
  double total = 0;
  each_vector(0, count, [&](int64_t i, int n) {
    store(p + i, exp(load(p + i, n)), n);
    for (int k = 0; k < n; ++k) total += double(p[i + k]);
  });
  return total;
}

int64_t kept_count(const SampleArgs& a, const float* p, int64_t count, double total) {
  int64_t kept = count;
  if (a.top_p < 1) {
    double before = 0;
    for (kept = 0; kept < count && (kept == 0 || before < double(a.top_p) * total); ++kept) before += double(p[kept]);
  }
  while (kept > 1 && p[kept - 1] < a.min_p * p[0]) --kept;
  return kept;
}

int64_t draw(const SampleArgs& a, const float* p, int64_t count) {
  double mass = 0, running = 0;
  for (int64_t i = 0; i < count; ++i) mass += double(p[i]);
  const double at = draw_of(a) * mass;
  for (int64_t i = 0; i < count; ++i) {
    running += double(p[i]);
    if (running > at) return i;
  }
  return 0;
}

// The first of the largest.
int32_t first_of(const float* x, int64_t count, float top) {
  int64_t i = 0;
  while (i + kWidth <= count && max(load(x + i)) < top) i += kWidth;
  while (i < count && x[i] != top) ++i;
  return int32_t(i);
}

int32_t choose(const SampleArgs& a, const float* logits, int64_t vocabulary, float top) {
  if (a.temperature == 0 && !a.seen) return first_of(logits, vocabulary, top);
  const Workspace space(vocabulary * 5);
  Candidate* all = reinterpret_cast<Candidate*>(space.data());
  // [1] repetition penalty, temperature, order
  for (int64_t i = 0; i < vocabulary; ++i) all[i] = {key_of(logits[i]), int32_t(i)};
  for (int64_t i = 0; a.seen && i < a.seen.count(); ++i) {
    const int32_t id = a.seen.i32()[i];
    all[id].key = key_of(penalized(logits[id], a.repetition_penalty));
  }
  if (a.temperature == 0) {
    int64_t best = 0;
    for (int64_t i = 1; i < vocabulary; ++i) best = all[i].key < all[best].key ? i : best;
    return int32_t(best);
  }
  const Candidate* sorted = sort_by_key(all, all + vocabulary, vocabulary);
  // [2] top-k, top-p, min-p
  const int64_t count = a.top_k > 0 && a.top_k < vocabulary ? a.top_k : vocabulary;
  float* p = space.data() + vocabulary * 4;
  const double total = weigh(sorted, count, a.temperature, p);
  const int64_t kept = kept_count(a, p, count, total);
  // [3] draw
  return sorted[draw(a, p, kept)].id;
}

}  // namespace

Sample sample(const SampleArgs& a) {
  const int64_t vocabulary = a.logits.dim(1);
  const float* logits = a.logits.f32() + a.row * vocabulary;
  const float top = checked_max(logits, vocabulary);
  if (!(top < INFINITY)) return {kNoToken, 0};
  const int32_t token = choose(a, logits, vocabulary, top);
  if (!a.wants_logprob) return {token, 0};
  return {token, float(double(logits[token]) - double(top) - ::log(exp_sum(logits, vocabulary, top)))};
}

}  // namespace nibble::cpu::NIBBLE_ISA
