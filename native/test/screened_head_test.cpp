#include "ops/screened_head.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "core/thread_pool.h"
#include "test/support.h"

namespace nibble::test {

namespace {

struct Case {
  int64_t vocabulary, columns, keep;
  DType dtype = DType::kBF16;
  std::function<void(Tensor& x, Tensor& w)> change = [](Tensor&, Tensor&) {};
  int64_t rows = 3;
};

Tensor row_of(const Tensor& t, int64_t row) {
  Tensor r = t;
  r.data = t.u8() + row * t.dim(1) * size_of(t.dtype);
  r.shape[0] = 1;
  return r;
}

Tensor codes_for(Bench& b, int64_t vocabulary, int64_t columns) {
  return b.out(DType::kU8, {screen_groups(vocabulary), screen_pitch(columns) / kScreenQuad, kScreenRows, kScreenQuad});
}

// Logits that were left out; all others are held to be those of linear_forward.
int64_t expect_largest_exact(const Case& c) {
  Bench b(Device::kCpu);
  Tensor x = b.random(DType::kF32, {c.rows, c.columns}, 4), w = b.random(c.dtype, {c.vocabulary, c.columns});
  c.change(x, w);
  const Weight weight{.out = c.vocabulary, .in = c.columns, .data = w};
  const HeadScreen screen{.codes = codes_for(b, c.vocabulary, c.columns),
                          .scale = b.out(DType::kF32, {c.vocabulary}), .error = b.out(DType::kF32, {c.vocabulary}),
                          .norm = b.out(DType::kF32, {c.vocabulary})};
  screen_head({.w = weight, .screen = screen});
  const Tensor y = b.out(DType::kF32, {c.rows, c.vocabulary}), exact = b.out(DType::kF32, {c.rows, c.vocabulary});
  screened_head({.x = x, .w = weight, .screen = screen, .keep = c.keep, .y = y});
  int64_t left_out = 0;
  for (int64_t r = 0; r < c.rows; ++r) {
    linear_forward({.x = row_of(x, r), .w = weight, .y = row_of(exact, r)});
    const float *got = row_of(y, r).f32(), *want = row_of(exact, r).f32();
    std::vector<float> sorted(want, want + c.vocabulary);
    const auto finite = [](float v) { return !std::isnan(v); };
    sorted.erase(std::partition(sorted.begin(), sorted.end(), finite), sorted.end());
    std::sort(sorted.begin(), sorted.end(), std::greater<float>());
    const size_t kept = size_t(std::min<int64_t>(c.keep, int64_t(sorted.size())));
    const float least = kept > 0 ? sorted[kept - 1] : -INFINITY;
    for (int64_t i = 0; i < c.vocabulary; ++i) {
      if (got[i] == want[i] || (std::isnan(got[i]) && std::isnan(want[i]))) continue;
      ++left_out;
      EXPECT_LT(got[i], least) << "row " << r << ", id " << i;
      EXPECT_LT(want[i], least) << "row " << r << ", id " << i;
    }
  }
  return left_out;
}

}  // namespace

TEST(ScreenedHead, TheLargestAreExactWhateverTheShape) {
  for_each_isa([](const std::string& isa) {
    for (int64_t vocabulary : {1, 15, 16, 17, 700})
      for (int64_t columns : {1, 63, 64, 65, 130})
        for (int64_t keep : {1, 2, 5, 40})
          for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
            SCOPED_TRACE(isa);
            // One row is taken in finer numbers than many; many are taken in runs of 16, 8 and 4.
            for (int64_t rows : {1, 3, 4, 6, 29})
              expect_largest_exact({vocabulary, columns, keep, dtype, [](Tensor&, Tensor&) {}, rows});
          }
  });
}

TEST(ScreenedHead, MostOfALargeHeadIsLeftOut) {
  for_each_isa([](const std::string& isa) {
    SCOPED_TRACE(isa);
    for (int64_t keep : {1, 50})
      for (int64_t rows : {1, 9, 16})
        EXPECT_GT(expect_largest_exact({6000, 576, keep, DType::kBF16, [](Tensor&, Tensor&) {}, rows}), rows * 5000);
  });
}

TEST(ScreenedHead, NearTiesAndOutliersAreToldApart) {
  for_each_isa([](const std::string& isa) {
    SCOPED_TRACE(isa);
    // One row over and over, each copy off by less than a step of 8 bits.
    expect_largest_exact({900, 96, 3, DType::kF32, [](Tensor&, Tensor& w) {
                            for (int64_t i = 96; i < 900 * 96; ++i) put(w, i, get(w, i % 96) + 1e-5 * double(i * 7919 % 31));
                          }});
    expect_largest_exact({2000, 192, 4, DType::kBF16, [](Tensor& x, Tensor& w) {
                            for (int64_t r = 0; r < 3; ++r) put(x, r * 192 + 5, 4e3);
                            for (int64_t i = 7; i < 2000 * 192; i += 192) put(w, i, 90);
                          }});
    expect_largest_exact({2000, 192, 4, DType::kBF16, [](Tensor& x, Tensor& w) {
                            for (int64_t i = 0; i < x.count(); ++i) put(x, i, get(x, i) * 1e-24);
                            for (int64_t i = 0; i < w.count(); i += 3) put(w, i, 0);
                          }});
  });
}

TEST(ScreenedHead, RowsThatAreNotFiniteGoTheExactWay) {
  for_each_isa([](const std::string& isa) {
    SCOPED_TRACE(isa);
    const auto set = [](double value, bool in_x) {
      return [=](Tensor& x, Tensor& w) { put(in_x ? x : w, in_x ? 70 : 64 * 100 + 3, value); };
    };
    for (double bad : {double(NAN), double(INFINITY), -double(INFINITY)})
      for (bool in_x : {false, true}) expect_largest_exact({900, 64, 2, DType::kBF16, set(bad, in_x)});
    expect_largest_exact({900, 64, 2, DType::kBF16, [](Tensor& x, Tensor&) {
                            for (int64_t i = 0; i < x.count(); ++i) put(x, i, 0);
                          }});
  });
}

TEST(ScreenedHead, CodesAreThoseOfTheReference) {
  expect_cpu_like_reference("screen_head", 5e-3, [](Bench& b) {
    const Tensor w = b.random(DType::kBF16, {70, 100});
    const Tensor codes = codes_for(b, 70, 100);
    const HeadScreen screen{.codes = codes, .scale = b.out(DType::kF32, {70}), .error = b.out(DType::kF32, {70}),
                            .norm = b.out(DType::kF32, {70})};
    screen_head({.w = {.out = 70, .in = 100, .data = w}, .screen = screen});
  });
}

TEST(ScreenedHead, RefusesWhatItCannotScreen) {
  Bench b(Device::kCpu);
  const Weight w{.out = 20, .in = 64, .data = b.random(DType::kBF16, {20, 64})};
  HeadScreen screen{.codes = codes_for(b, 20, 64), .scale = b.out(DType::kF32, {20}),
                    .error = b.out(DType::kF32, {20}), .norm = b.out(DType::kF32, {20})};
  screen_head({.w = w, .screen = screen});
  ScreenedHeadArgs a{.x = b.random(DType::kF32, {2, 64}), .w = w, .screen = screen, .keep = 0,
                     .y = b.out(DType::kF32, {2, 20})};
  expect_error("[screened_head] keep: expected at least 1, got 0", [&] { screened_head(a); });
  a.keep = 1;
  a.x = b.random(DType::kBF16, {2, 64});
  expect_error("[screened_head] x: expected dtype float32, got bfloat16", [&] { screened_head(a); });
  screen.codes = b.out(DType::kU8, {20, 32});
  expect_error("[screen_head] codes: expected shape [2,16,16,4]", [&] { screen_head({.w = w, .screen = screen}); });
}

}  // namespace nibble::test
