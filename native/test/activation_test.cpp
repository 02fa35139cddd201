#include "ops/activation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <utility>

#include "test/support.h"

namespace nibble::test {

namespace {

constexpr Activation kKinds[] = {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu};

}  // namespace

TEST(Activation, LikeReference) {
  for (Activation kind : kKinds)
    for (DType dtype : {DType::kF32, DType::kBF16})
      for (bool gated : {false, true})
        for (int64_t columns : {0, 1, 15, 16, 17, 20001})
          expect_like_reference("activation", 2e-6, [&](Bench& b) {
            const Tensor g = b.random(dtype, {1, columns}, 9), u = gated ? b.random(dtype, {1, columns}) : Tensor{};
            activation_forward({.kind = kind, .g = g, .u = u, .y = b.out(dtype, {1, columns})});
            activation_backward({.kind = kind, .d_y = b.random(dtype, {1, columns}), .g = g, .u = u,
                                 .d_g = b.out(dtype, {1, columns}),
                                 .d_u = gated ? b.out(dtype, {1, columns}) : Tensor{}});
          });
}

// Vectors are rounded in groups, and numbers too small for the instruction that rounds are looked for in a group at a time.
TEST(Activation, SubnormalNumbersStayAmongOthers) {
  for_each_isa([](const std::string& isa) {
    Bench b(Device::kCpu);
    const Tensor g = b.random(DType::kBF16, {1, 1003}), y = b.out(DType::kBF16, {1, 1003});
    for (int64_t i : {0, 130, 700, 1002}) g.u16()[i] = uint16_t(i / 8 + 1);
    activation_forward({.kind = Activation::kRelu, .g = g, .y = y});
    for (int64_t i = 0; i < 1003; ++i) EXPECT_EQ(get(y, i), std::fmax(0.0, get(g, i))) << isa << " " << i;
  });
}

TEST(Activation, BackwardMayWriteOverWhatItReads) {
  for_each_isa([](const std::string& isa) {
    Bench b(Device::kCpu);
    const Tensor d_y = b.random(DType::kBF16, {1, 5003}), g = b.random(DType::kBF16, {1, 5003}),
                 u = b.random(DType::kBF16, {1, 5003});
    const auto out = [&] { return b.out(DType::kBF16, {1, 5003}); };
    const Tensor d_g = out(), d_u = out(), y = out();
    const Activation kind = Activation::kSilu;
    activation_backward({.kind = kind, .d_y = d_y, .g = g, .u = u, .d_g = d_g, .d_u = d_u, .y = y});
    activation_backward({.kind = kind, .d_y = d_y, .g = g, .u = u, .d_g = g, .d_u = u, .y = d_y});
    for (const auto& [apart, over] : {std::pair{d_g, g}, {d_u, u}, {y, d_y}})
      for (int64_t i = 0; i < 5003; ++i) EXPECT_EQ(get(apart, i), get(over, i)) << isa << " " << i;
  });
}

TEST(Activation, FarOutIsFinite) {
  for_each_isa([](const std::string& isa) {
    Bench b(Device::kCpu);
    const Tensor g = b.values(DType::kF32, {-3e38, -1e19, -1000, -104, -88, 0, 88, 104, 1000, 1e19, 3e38});
    const Tensor y = b.filled(DType::kF32, {11}, NAN), d_y = b.filled(DType::kF32, {11}, 1);
    for (Activation kind : kKinds) {
      activation_forward({.kind = kind, .g = g, .y = y});
      for (int64_t i = 0; i < 11; ++i) {
        const double x = get(g, i), want = x > 0 ? x : 0;
        EXPECT_NEAR(get(y, i), want, std::fabs(want) * 1e-6 + 1e-30) << isa << " kind " << int(kind) << " at " << x;
      }
      activation_backward({.kind = kind, .d_y = d_y, .g = g, .d_g = y});
      for (int64_t i = 0; i < 11; ++i) {
        const double x = get(g, i), want = x > 0 ? 1 : x < 0 || kind == Activation::kRelu ? 0 : 0.5;
        EXPECT_NEAR(get(y, i), want, 1e-6) << isa << " slope of kind " << int(kind) << " at " << x;
      }
    }
  });
}

// e^x and its share of a sigmoid, over the arguments that silu meets: |g silu'| shows an error of either.
TEST(Activation, SiluWithinUlps) {
  for_each_isa([](const std::string& isa) {
    Bench b(Device::kCpu);
    const Tensor g = b.random(DType::kF32, {100000}, 80), y = b.filled(DType::kF32, {100000}, NAN);
    activation_forward({.kind = Activation::kSilu, .g = g, .y = y});
    for (int64_t i = 0; i < 100000; ++i) {
      const double x = get(g, i), want = x / (1 + std::exp(-x));
      const double ulp = std::fabs(want) * std::numeric_limits<float>::epsilon();
      ASSERT_NEAR(get(y, i), want, 3 * ulp) << isa << " at " << x;
    }
  });
}

}  // namespace nibble::test
