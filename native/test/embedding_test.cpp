#include "ops/embedding.h"

#include <gtest/gtest.h>

#include "test/support.h"

namespace nibble::test {

TEST(Embedding, LikeReference) {
  for (DType table : {DType::kF32, DType::kBF16, DType::kF16})
    for (DType dtype : {DType::kF32, DType::kBF16})
      for (int64_t rows : {0, 1, 50})
        for (int64_t c : {1, 5, 31, 130, 260})
          expect_like_reference("embedding", 1e-6, [&](Bench& b) {
            const Tensor ids = b.indices(rows, 9);
            embedding_forward({.table = b.random(table, {9, c}), .ids = ids, .y = b.out(dtype, {rows, c})});
            embedding_backward({.d_y = b.random(dtype, {rows, c}), .ids = ids,
                                .d_table = b.compared(b.random(DType::kF32, {9, c}))});
          });
}

TEST(Embedding, RefusesIdsOutsideTheTable) {
  Bench b(Device::kCpu);
  const Tensor table = b.random(DType::kF32, {3, 4}), rows = b.random(DType::kF32, {1, 4});
  for (double wrong : {-1.0, 3.0}) {
    const Tensor ids = b.values(DType::kI32, {wrong});
    expect_error("ids: expected values in [0,3)", [&] { embedding_forward({.table = table, .ids = ids, .y = rows}); });
    expect_error("ids: expected values in [0,3)",
                 [&] { embedding_backward({.d_y = rows, .ids = ids, .d_table = table}); });
  }
}

}  // namespace nibble::test
