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

}  // namespace
}  // namespace nibble::cpu::portable
