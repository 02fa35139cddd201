#include "backends/cuda/product.h"

namespace nibble::cuda {

namespace {

__device__ float element(const Operand& o, const WeightView& w, int64_t row, int64_t depth) {
  if (o.is_weight) return o.transposed ? w.element(depth, row) : w.element(row, depth);
  const int64_t i = row * o.row_stride + depth * o.depth_stride;
  return round_to(o.rounding, load(o.data, o.dtype, i) * o.factor * dropout_factor(o.dropout, i));
}

__global__ void product_kernel(Product p, WeightView w) {
  const int64_t i = first_index();
  if (i >= p.m * p.n) return;
  const int64_t row = i / p.n, column = i % p.n;
  float sum = p.bias == nullptr ? 0.0f : p.bias[column];
  if (p.accumulate) sum += load(p.c, p.c_dtype, i);
  for (int t = 0; t < p.terms; ++t) {
    const Term& term = p.term[t];
    float of_term = 0;
    for (int64_t k = 0; k < term.depth; ++k) {
      of_term = fmaf(element(term.a, w, row, k), element(term.b, w, column, k), of_term);
    }
    sum = fmaf(of_term, dropout_factor(term.mask, i), sum);
  }
  store(p.c, p.c_dtype, i, sum);
}

}  // namespace

void multiply(const Product& p, const WeightView& weight) {
  launch(product_kernel, grid_of(blocks_of(p.m * p.n, kThreads)), kThreads, 0, p, weight);
}

}  // namespace nibble::cuda
