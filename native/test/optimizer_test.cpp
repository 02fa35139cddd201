#include "ops/optimizer.h"

#include <gtest/gtest.h>

#include "ops/code8.h"
#include "test/support.h"

namespace nibble::test {

namespace {

AdamwArgs hyper() {
  return {.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-7, .weight_decay = 0.05, .grad_scale = 0.4, .step = 3};
}

}  // namespace

TEST(Optimizer, Adamw32LikeReference) {
  for (int64_t n : {0, 1, 17, 256, 30001})
    expect_like_reference("adamw 32", 1e-6, [&](Bench& b) {
      AdamwArgs a = hyper();
      a.p = b.compared(b.random(DType::kF32, {n}));
      a.g = b.random(DType::kF32, {n});
      a.m = b.compared(b.random(DType::kF32, {n}));
      a.v = b.compared(b.filled(DType::kF32, {n}, 0.25));
      adamw(a);
    });
}

TEST(Optimizer, Adamw8HasTheBytesOfTheReference) {
  for (int64_t n : {0, 1, 255, 256, 257, 30001})
    for (double size : {0.0, 1e-30, 1.0})
      expect_like_reference("adamw 8", 0, [&](Bench& b) {
        const int64_t blocks = (n + kBlock8 - 1) / kBlock8;
        AdamwArgs a = hyper();
        a.p = b.compared(b.random(DType::kF32, {n}));
        a.g = b.random(DType::kF32, {n}, size);
        a.m = b.compared(b.filled(DType::kU8, {n}, 200));
        a.v = b.compared(b.filled(DType::kU8, {n}, 100));
        a.m_absmax = b.compared(b.filled(DType::kF32, {blocks}, size));
        a.v_absmax = b.compared(b.filled(DType::kF32, {blocks}, size * size));
        adamw(a);
      });
}

// A gradient that is not finite is the caller's to catch, but no code may go out of bounds on it.
TEST(Optimizer, Adamw8SurvivesNonfiniteGradients) {
  for_each_isa([](const std::string&) {
    Bench b(Device::kCpu);
    AdamwArgs a = hyper();
    a.p = b.random(DType::kF32, {4});
    a.g = b.values(DType::kF32, {NAN, INFINITY, -INFINITY, 1e-45});
    a.m = b.filled(DType::kU8, {4}, 0);
    a.v = b.filled(DType::kU8, {4}, 0);
    a.m_absmax = b.filled(DType::kF32, {1}, 0);
    a.v_absmax = b.filled(DType::kF32, {1}, 0);
    adamw(a);
    a.step = 4;
    adamw(a);
  });
}

TEST(Optimizer, SumSquaresOfSeveral) {
  for_each_isa([](const std::string& isa) {
    Bench b(Device::kCpu);
    const Tensor all[] = {b.random(DType::kF32, {40001}), b.random(DType::kBF16, {0}), b.random(DType::kBF16, {17}),
                          b.random(DType::kF32, {1}), b.random(DType::kBF16, {16384})};
    double want = 0;
    for (const Tensor& x : all)
      for (int64_t i = 0; i < x.count(); ++i) want += get(x, i) * get(x, i);
    EXPECT_NEAR(sum_squares(all, 5), want, want * 1e-13) << isa;
  });
}

TEST(Optimizer, SumSquares) {
  for_each_isa([](const std::string& isa) {
    for (int64_t n : {0, 1, 15, 16, 17, 40001})
      for (DType dtype : {DType::kF32, DType::kBF16}) {
        Bench b(Device::kCpu);
        const Tensor x = b.random(dtype, {n}, 1e-15);
        double want = 0;
        for (int64_t i = 0; i < n; ++i) want += get(x, i) * get(x, i);
        EXPECT_NEAR(sum_squares(x), want, want * 1e-13) << isa << " " << n;
      }
  });
}

}  // namespace nibble::test
