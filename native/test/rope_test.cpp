#include "ops/rope.h"

#include <gtest/gtest.h>

#include "test/support.h"

namespace nibble::test {

TEST(Rope, LikeReference) {
  for (DType dtype : {DType::kF32, DType::kBF16})
    for (bool inverse : {false, true})
      for (int64_t rows : {0, 1, 3, 700})
        for (int64_t half : {1, 4, 7, 16, 33})
          expect_like_reference("rope", 3e-7, [&](Bench& b) {
            const Tensor x = b.compared(b.random(dtype, {rows, 2 * half * 2}));
            const Tensor table = b.random(DType::kF32, {11, half}), other = b.random(DType::kF32, {11, half});
            rope({.x = x, .positions = b.indices(rows, 11), .cos = table, .sin = other, .inverse = inverse});
          });
}

TEST(Rope, RefusesPositionsOutsideTheTable) {
  Bench b(Device::kCpu);
  const Tensor table = b.random(DType::kF32, {4, 2});
  for (double wrong : {-1.0, 4.0}) {
    const RopeArgs a{.x = b.random(DType::kF32, {1, 4}), .positions = b.values(DType::kI32, {wrong}), .cos = table,
                     .sin = table};
    expect_error("[rope] positions: expected values in [0,4)", [&] { rope(a); });
  }
}

}  // namespace nibble::test
