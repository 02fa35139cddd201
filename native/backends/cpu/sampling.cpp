// Same steps as backends/reference/sampling.cpp: exponentials in float32 vectors, sums in float64. Rows are tasks; of a row,
// only the tokens that can matter are put in order.
#include "ops/sampling.h"

#include <math.h>

#include "backends/cpu/elements.h"
#include "backends/cpu/ops.h"
#include "backends/cpu/vector_math.h"
#include "backends/cpu/workspace.h"
#include "core/thread_pool.h"

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

// Sorts by key; equal keys keep their order. Returns the array that holds the result.
Candidate* sort_by_key(Candidate* from, Candidate* spare, int64_t count) {
  constexpr int kPasses = 3, kBits = 11;
  constexpr uint32_t kDigits = 1u << kBits;
  int32_t start[kPasses][kDigits + 1] = {};
  for (int64_t i = 0; i < count; ++i)
    for (int pass = 0; pass < kPasses; ++pass) ++start[pass][((from[i].key >> (pass * kBits)) & (kDigits - 1)) + 1];
  for (int pass = 0; pass < kPasses; ++pass) {
    for (uint32_t digit = 0; digit < kDigits; ++digit) start[pass][digit + 1] += start[pass][digit];
    for (int64_t i = 0; i < count; ++i) spare[start[pass][(from[i].key >> (pass * kBits)) & (kDigits - 1)]++] = from[i];
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
  const auto see = [&](Vec v) NIBBLE_INLINE {
    bad |= ~(v < splat(INFINITY));
    highest = v > highest ? v : highest;
  };
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) see(load(x + i));
  if (i < count) {
    float part[kWidth];
    store(part, splat(-INFINITY));
    memcpy(part, x + i, size_t(count - i) * 4);
    see(load(part));
  }
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

// The first of the largest.
int32_t first_of(const float* x, int64_t count, float top) {
  constexpr int64_t kSpan = 8 * kWidth;
  int64_t i = 0;
  for (; i + kSpan <= count; i += kSpan) {
    Vec highest = load(x + i);
    for (int64_t k = kWidth; k < kSpan; k += kWidth) highest = load(x + i + k) > highest ? load(x + i + k) : highest;
    if (!(max(highest) < top)) break;
  }
  while (i < count && x[i] != top) ++i;
  return int32_t(i);
}

// Scratch of a row.
struct Space {
  float *values, *p;
  Candidate *some, *spare;

  static int64_t floats(int64_t vocabulary) { return 6 * vocabulary; }
  Space(float* data, int64_t vocabulary)
      : values(data), p(data + vocabulary), some(reinterpret_cast<Candidate*>(data + 2 * vocabulary)),
        spare(some + vocabulary) {}
};

// A row's tokens in bins by their probability, the likeliest first: from their sums it is known how many matter.
class Bins {
 public:
  // p: 1 for the largest logit.
  Bins(const float* p, int64_t vocabulary, float min_p) {
    for (int64_t i = 0; i < vocabulary; ++i) {
      const int bin = bin_of(p[i]);
      ++count_[bin];
      mass_[bin] += double(p[i]);
      if (p[i] >= min_p) kept_mass_ += double(p[i]);
    }
    for (double mass : mass_) total_ += mass;
  }

  // An exponential of next to nothing may be rounded to more than 1.
  static int bin_of(float p) { return p < 1 ? int((kOne - float_to_bits(p)) >> 19) : 0; }
  double total() const { return total_; }
  // Of those of at least min_p.
  double kept_mass() const { return kept_mass_; }
  // The last bin, so that so many tokens are in it and before it, or probabilities whose sum is above `mass`. One more than
  // that: exponentials of neighbours may be out of order by their rounding.
  int last_for_count(int64_t count) const {
    int bin = 0;
    for (int64_t sum = count_[0]; sum < count && bin < kBins - 1;) sum += count_[++bin];
    return bin + 1;
  }
  int last_for_mass(double mass) const {
    int bin = 0;
    for (double sum = mass_[0]; sum <= mass && bin < kBins - 1;) sum += mass_[++bin];
    return bin + 1;
  }

 private:
  static constexpr uint32_t kOne = 0x3f800000u;  // 1.0f
  static constexpr int kBins = (kOne >> 19) + 1;  // 16 for each power of 2
  int32_t count_[kBins] = {};
  double mass_[kBins] = {};
  double total_ = 0, kept_mass_ = 0;
};

// The first of the kept tokens at which the running sum exceeds its share of the mass.
int64_t draw(const SampleArgs& a, const Candidate* sorted, const float* p, int64_t kept, double mass) {
  const double at = draw_of(a) * mass;
  double running = 0;
  for (int64_t i = 0; i < kept; ++i) {
    running += double(p[sorted[i].id]);
    if (running > at) return i;
  }
  return kept - 1;
}

double mass_of(const Candidate* sorted, const float* p, int64_t count) {
  double mass = 0;
  for (int64_t i = 0; i < count; ++i) mass += double(p[sorted[i].id]);
  return mass;
}

int32_t choose(const SampleArgs& a, const float* values, int64_t vocabulary, float top, const Space& space) {
  if (a.temperature == 0) return first_of(values, vocabulary, top);
  // [1] temperature, order
  float* const p = space.p;
  each_vector(0, vocabulary, [&](int64_t i, int n) NIBBLE_INLINE {
    store(p + i, exp((load(values + i, n) - splat(top)) / splat(a.temperature)), n);
  });
  const bool limited = a.top_k > 0 && a.top_k < vocabulary, nucleus = a.top_p < 1;
  const Bins bins(p, vocabulary, a.min_p);
  const int last = limited ? bins.last_for_count(a.top_k)
                           : bins.last_for_mass(nucleus ? double(a.top_p) * bins.total() : draw_of(a) * bins.kept_mass());
  int64_t count = 0;
  for (int64_t i = 0; i < vocabulary; ++i)
    if (p[i] > 0 && Bins::bin_of(p[i]) <= last) space.some[count++] = {key_of(values[i]), int32_t(i)};
  const Candidate* const sorted = sort_by_key(space.some, space.spare, count);
  // [2] top-k, top-p, min-p
  if (limited && count > a.top_k) count = a.top_k;
  const double total = limited ? mass_of(sorted, p, count) : bins.total();
  int64_t kept = count;
  if (nucleus) {
    double before = 0;
    for (kept = 0; kept < count && (kept == 0 || before < double(a.top_p) * total); ++kept) before += double(p[sorted[kept].id]);
  }
  while (kept > 1 && p[sorted[kept - 1].id] < a.min_p * p[sorted[0].id]) --kept;
  // [3] draw
  const double mass = limited || nucleus ? mass_of(sorted, p, kept) : bins.kept_mass();
  return sorted[draw(a, sorted, p, kept, mass)].id;
}

Sample sample_row(const SampleArgs& a, const float* logits, int64_t vocabulary, const Space& space) {
  const float top = checked_max(logits, vocabulary);
  if (!(top < INFINITY)) return {kNoToken, 0};
  const float* values = logits;
  float highest = top;
  if (a.changes_logits()) {
    memcpy(space.values, logits, size_t(vocabulary) * 4);
    memset(space.p, 0, size_t(vocabulary) * 4);
    change_logits(a, space.values, vocabulary, reinterpret_cast<int32_t*>(space.p));
    values = space.values;
    highest = checked_max(values, vocabulary);
    if (!(highest < INFINITY)) return {kNoToken, 0};
  }
  const int32_t token = choose(a, values, vocabulary, highest, space);
  if (!a.wants_logprob) return {token, 0};
  return {token, float(double(logits[token]) - double(top) - ::log(exp_sum(logits, vocabulary, top)))};
}

}  // namespace

void sample(const Tensor& logits, const SampleArgs* rows, int count, Sample* results) {
  const int64_t vocabulary = logits.dim(1);
  bool plain = true;
  for (int i = 0; i < count; ++i) plain = plain && rows[i].temperature == 0 && !rows[i].changes_logits();
  const int threads = thread_count(), slots = plain ? 1 : threads < count ? threads : count;
  const Scratch scratch(plain ? 0 : Space::floats(vocabulary), slots);
  parallel_for(count, [&](int64_t i) {
    const float* const row = logits.f32() + rows[i].row * vocabulary;
    if (plain) {
      results[i] = sample_row(rows[i], row, vocabulary, {nullptr, 0});
    } else {
      const Scratch::Piece piece(scratch);
      results[i] = sample_row(rows[i], row, vocabulary, {piece.data(), vocabulary});
    }
  });
}

}  // namespace nibble::cpu::NIBBLE_ISA
