// Products on the CUDA device with the tile given, for product_test.cpp: ops choose it by the shape, and large tiles
// only for shapes that take too long on the host.
#pragma once

#include "ops/linear.h"

namespace nibble::test {

// C[m,n] = bias[n] + C[m,n] + mask * sum_r A2(m,r) B2(n,r) + sum_k A(m,k) B(n,k), the first `rows` - `before` of them.
struct ProductCase {
  int tile;                   // 1 to 3: small, medium, large; 0: in float32
  Tensor a;                   // bfloat16 [m, k]; [k, m] with a_columns
  Tensor b;                   // bfloat16 [n, k]; [k, n] with b_columns
  bool a_columns, b_columns;
  const Weight* weight;       // in place of b; may be null
  Tensor a2, b2;              // as a and b; may be empty
  Dropout mask;
  Tensor bias, rows;          // [n] float32, [1] int32; may be empty
  int64_t before = 0;
  int splits = 1;
  Tensor c;                   // in/out [m, n] float32 | bfloat16
};

void multiply_case(const ProductCase& args);

}  // namespace nibble::test
