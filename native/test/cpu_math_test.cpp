// The vector functions of the CPU backend, in the build that every machine runs.
#define NIBBLE_ISA portable
#include "backends/cpu/math.h"

#include <gtest/gtest.h>

#include <cmath>

namespace nibble::cpu::portable {
namespace {

float exp_of(float x) { return exp(splat(x))[0]; }

TEST(Exp, IsWithin102HundredthsOfAUlp) {
  for (float x = -87.3f; x < 88.72f; x += 0.00037f) {
    const double want = std::exp(double(x));
    const double ulp = std::nextafter(float(want), INFINITY) - float(want);
    ASSERT_LE(std::fabs(exp_of(x) - want), 1.02 * ulp) << x;
  }
}

TEST(Exp, GoesOnPastTheRange) {
  EXPECT_EQ(exp_of(0), 1);
  EXPECT_EQ(exp_of(-INFINITY), 0);
  EXPECT_EQ(exp_of(-200), 0);
  EXPECT_EQ(exp_of(INFINITY), INFINITY);
  EXPECT_EQ(exp_of(89), INFINITY);
  EXPECT_GT(exp_of(-100), 0);  // subnormal
  EXPECT_TRUE(std::isnan(exp_of(NAN)));
}

float exp2_of(float x) { return exp2(splat(x))[0]; }

TEST(Exp2, IsWithinTwoTenMillionths) {
  for (float x = -126; x < 127; x += 0.00053f) {
    const double want = std::exp2(double(x));
    ASSERT_LE(std::fabs(exp2_of(x) - want), 2e-7 * want) << x;
  }
}

TEST(Exp2, GoesOnBelowTheRange) {
  EXPECT_EQ(exp2_of(0), 1);
  EXPECT_EQ(exp2_of(-127), 0);
  EXPECT_EQ(exp2_of(-1e30f), 0);
  EXPECT_EQ(exp2_of(-INFINITY), 0);
  EXPECT_TRUE(std::isnan(exp2_of(NAN)));
}

TEST(AnyAbove, SeesEveryLaneAndNoEqualOrNaN) {
  for (int l = 0; l < kWidth; ++l) {
    Vec v = splat(1);
    v[l] = 2;
    EXPECT_TRUE(any_above(v, splat(1)));
    v[l] = NAN;
    EXPECT_FALSE(any_above(v, splat(1)));
  }
}

}  // namespace
}  // namespace nibble::cpu::portable
