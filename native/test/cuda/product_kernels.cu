#include "test/cuda/product_kernels.h"

#include "backends/cuda/product.h"

namespace nibble::test {

void multiply_case(const ProductCase& t) {
  using namespace cuda;
  const auto operand = [](const Tensor& m, bool columns) { return columns ? columns_of(m) : rows_of(m); };
  WeightView view{};
  Operand b = t.b ? operand(t.b, t.b_columns) : Operand{};
  if (t.weight != nullptr) {
    view = view_of(*t.weight);
    b = t.b_columns ? kWeightTransposed : kWeight;
  }
  Product p{.term = {{.a = operand(t.a, t.a_columns), .b = b, .depth = t.a.dim(t.a_columns ? 0 : 1)}}, .mask = t.mask,
            .m = t.c.dim(0), .n = t.c.dim(1), .bias = t.bias.f32(), .c = t.c.data, .c_dtype = t.c.dtype,
            .accumulate = true, .rows_used = t.rows.i32(), .rows_before = t.before, .tile = Tile(t.tile), .splits = t.splits};
  if (t.a2) {
    p.terms = 2;
    p.term[1] = {.a = operand(t.a2, t.a_columns), .b = operand(t.b2, t.b_columns), .depth = t.a2.dim(t.a_columns ? 0 : 1)};
  }
  t.tile == 0 ? multiply_floats(p, view) : multiply_pairs(p, view);
}

}  // namespace nibble::test
