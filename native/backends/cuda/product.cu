// The product in float32: a block makes 64 x 64 of C, a thread 4 x 4 of that, from tiles of both operands that every
// element is decoded into once. Bound by multiply-adds of the plain cores.
#include "backends/cuda/product.h"

#include "unroll.h"

namespace nibble::cuda {

namespace {

constexpr int kSide = 64, kDepth = 16, kEach = 4;
constexpr int kLine = kSide + 4;  // so that a warp's stores of one depth after the other meet other banks

// Elements [row0, row0 + kSide) x [k0, k0 + kDepth) to shared memory, by depth; zeros past the ends. Neighbouring threads
// take neighbouring addresses.
__device__ void load_tile(float (*to)[kLine], const Operand& o, const WeightView& w, int64_t row0, int64_t rows, int64_t k0,
                          int64_t depth) {
  for (int i = int(threadIdx.x); i < kSide * kDepth; i += kThreads) {
    const int row = o.columns ? i % kSide : i / kDepth, k = o.columns ? i / kSide : i % kDepth;
    const bool inside = row0 + row < rows && k0 + k < depth;
    to[k][row] = inside ? element(o, w, row0 + row, k0 + k) : 0.0f;
  }
}

__device__ void multiply_term(float (&sum)[kEach][kEach], const Product& p, const Term& term, const WeightView& w,
                              int64_t row0, int64_t column0) {
  __shared__ float a[kDepth][kLine], b[kDepth][kLine];
  const int row = int(threadIdx.x) / 16, column = int(threadIdx.x) % 16;
  for (int64_t k0 = 0; k0 < term.depth; k0 += kDepth) {
    __syncthreads();
    load_tile(a, term.a, w, row0, p.m, k0, term.depth);
    load_tile(b, term.b, w, column0, p.n, k0, term.depth);
    __syncthreads();
    for (int k = 0; k < kDepth; ++k) {
      NIBBLE_UNROLL
      for (int i = 0; i < kEach; ++i)
        NIBBLE_UNROLL
        for (int j = 0; j < kEach; ++j) sum[i][j] = fmaf(a[k][16 * i + row], b[k][16 * j + column], sum[i][j]);
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 2) product_kernel(const __grid_constant__ Product p,
                                                            const __grid_constant__ WeightView w) {
  const TilePlace place = tile_place(blocks_of(p.m, kSide), blocks_of(p.n, kSide));
  const int64_t row0 = place.row * kSide, column0 = place.column * kSide, rows = rows_to_make(p);
  if (row0 >= rows) return;
  float sum[kEach][kEach] = {};
  if (p.terms == 2) multiply_term(sum, p, p.term[1], w, row0, column0);
  const int64_t row = row0 + threadIdx.x / 16, column = column0 + threadIdx.x % 16;
  if (p.terms == 2 && p.mask.p > 0) {
    for (int i = 0; i < kEach; ++i)
      for (int j = 0; j < kEach; ++j) sum[i][j] *= dropout_factor(p.mask, (row + 16 * i) * p.n + column + 16 * j);
  }
  multiply_term(sum, p, p.term[0], w, row0, column0);
  NIBBLE_UNROLL
  for (int i = 0; i < kEach; ++i) {
    NIBBLE_UNROLL
    for (int j = 0; j < kEach; ++j) {
      if (row + 16 * i < rows && column + 16 * j < p.n) put_result<T>(p, row + 16 * i, column + 16 * j, sum[i][j]);
    }
  }
}

}  // namespace

void multiply_floats(const Product& p, const WeightView& weight) {
  const Grid grid = grid_of(blocks_of(p.m, kSide) * blocks_of(p.n, kSide));
  with_activation(p.c_dtype, [&](auto t) { launch(product_kernel<decltype(t)>, grid, kThreads, 0, p, weight); });
}

void multiply(const Product& p, const WeightView& weight) {
  if (takes_library(p, weight)) return multiply_library(p, weight);
  takes_pairs(p, weight) ? multiply_pairs(p, weight) : multiply_floats(p, weight);
}

}  // namespace nibble::cuda
