#include "ops/norm.h"

#include <gtest/gtest.h>

#include "test/support.h"

namespace nibble::test {

namespace {

void run(Bench& b, Norm kind, DType dtype, int64_t rows, int64_t c, bool residual) {
  const bool layer = kind == Norm::kLayer;
  const auto parameter = [&] { return b.random(DType::kF32, {c}); };
  const auto statistic = [&] { return b.out(DType::kF32, {rows}); };
  NormForwardArgs f{.kind = kind, .x = b.random(dtype, {rows, c}, 3), .weight = parameter(), .eps = 1e-5f};
  if (layer) f.bias = parameter();
  if (residual) {
    f.residual = b.random(dtype, {rows, c}, 3);
    f.sum = b.out(dtype, {rows, c});
  }
  f.y = b.out(dtype, {rows, c});
  if (layer) f.mean = statistic();
  f.rstd = statistic();
  norm_forward(f);
  NormBackwardArgs g{.kind = kind, .d_y = b.random(dtype, {rows, c}), .s = residual ? f.sum : f.x,
                     .weight = f.weight, .mean = f.mean, .rstd = f.rstd, .d_s = b.out(dtype, {rows, c})};
  if (residual) g.d_sum = b.random(dtype, {rows, c});
  g.d_weight = b.compared(parameter());
  if (layer) g.d_bias = b.compared(parameter());
  norm_backward(g);
}

}  // namespace

TEST(Norm, LikeReference) {
  for (Norm kind : {Norm::kRms, Norm::kLayer})
    for (DType dtype : {DType::kF32, DType::kBF16})
      for (bool residual : {false, true})
        for (auto [rows, c] : {std::pair<int64_t, int64_t>{0, 4}, {1, 3}, {3, 7}, {5, 16}, {9, 33}, {1030, 18}, {2, 700}})
          expect_like_reference("norm", 4e-6, [&](Bench& b) { run(b, kind, dtype, rows, c, residual); });
}

TEST(Norm, Refuses) {
  Bench b(Device::kCpu);
  const Tensor x = b.random(DType::kF32, {2, 3}), row = b.random(DType::kF32, {3});
  NormForwardArgs a{.kind = Norm::kRms, .x = x, .weight = row, .eps = 1e-5f, .y = x, .rstd = b.random(DType::kF32, {2})};
  norm_forward(a);
  a.weight = b.random(DType::kF32, {2});
  expect_error("[norm_forward] weight: expected 3 elements, got 2", [&] { norm_forward(a); });
}

}  // namespace nibble::test
