// The CUDA backend's products with every tile, in every way that operands are read, with edges in all directions, beside
// sums in double precision. What ops make of them is in linear_test.cpp.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "backends/cuda/cross_entropy.h"
#include "backends/reference/weight.h"
#include "core/device_memory.h"
#include "ops/philox.h"
#include "ops/quantize4.h"
#include "test/cuda/product_kernels.h"
#include "test/device.h"
#include "test/support.h"

namespace nibble::test {

namespace {

class CudaProduct : public testing::Test {
  void SetUp() override {
    if (!device::has_cuda()) GTEST_SKIP() << cuda::unavailable();
  }
};

struct Size {
  int64_t m, n, k;
};

double at(const Tensor& t, bool columns, int64_t row, int64_t depth) {
  return columns ? get(t, depth * t.dim(1) + row) : get(t, row * t.dim(1) + depth);
}

Tensor matrix(Bench& b, bool columns, int64_t rows, int64_t depth) {
  return columns ? b.random(DType::kBF16, {depth, rows}) : b.random(DType::kBF16, {rows, depth});
}

// NF4 with double quantization, of a bfloat16 matrix.
Weight quantized(Bench& b, int64_t out, int64_t in) {
  const int64_t blocks = out * in / 64 + (out * in % 64 != 0);
  Weight w{.out = out, .in = in, .data = b.filled(DType::kU8, {out * in / 2}, 0), .quantized = true, .dtype = DType::kBF16};
  const Tensor absmax = b.filled(DType::kF32, {blocks}, 0), offset = b.filled(DType::kF32, {1}, 0);
  quantize4({.input = b.random(DType::kBF16, {out, in}), .codes = w.data, .absmax = absmax, .type = w.type,
             .block_size = w.block_size});
  w.absmax = b.filled(DType::kU8, {blocks}, 0);
  w.nested_absmax = b.filled(DType::kF32, {(blocks + 255) / 256}, 0);
  quantize_absmax({.absmax = absmax, .codes = w.absmax, .nested_absmax = w.nested_absmax, .offset = offset});
  w.nested_map = b.random(DType::kF32, {256});
  w.nested_offset = float(get(offset, 0));
  return w;
}

// The whole formula in double precision; the first `rows` rows only, the others as C was.
std::vector<double> expected(const ProductCase& p, const Size& s, int64_t rows, const Tensor& c) {
  std::vector<double> want(size_t(s.m * s.n));
  const Weight none{};
  const reference::WeightReader weight(p.weight != nullptr ? *p.weight : none);
  const int64_t rank = p.a2 ? p.a2.dim(p.a_columns ? 0 : 1) : 0;
  for (int64_t m = 0; m < s.m; ++m)
    for (int64_t n = 0; n < s.n; ++n) {
      double& sum = want[size_t(m * s.n + n)] = get(c, m * s.n + n);
      if (m >= rows) continue;
      double adapter = 0;
      for (int64_t r = 0; r < rank; ++r) adapter += at(p.a2, p.a_columns, m, r) * at(p.b2, p.b_columns, n, r);
      const bool keeps = p.mask.p == 0 || dropout_keeps(p.mask.seed, p.mask.stream, uint64_t(m * s.n + n), p.mask.p);
      sum += (keeps ? adapter / (1 - double(p.mask.p)) : 0) + (p.bias ? get(p.bias, n) : 0);
      for (int64_t k = 0; k < s.k; ++k) {
        const double b = p.weight == nullptr ? at(p.b, p.b_columns, n, k) : p.b_columns ? weight(k, n) : weight(n, k);
        sum += at(p.a, p.a_columns, m, k) * b;
      }
    }
  return want;
}

void expect_product(ProductCase p, const Size& s, int64_t rows, const std::string& name) {
  cuda::synchronize();
  const std::vector<double> want = expected(p, s, rows, p.c);
  for (bool reversed : {false, true}) {
    Bench b(Device::kCuda);
    const Tensor c = p.c;
    p.c = b.filled(c.dtype, {s.m, s.n}, 0);
    for (int64_t i = 0; i < c.count(); ++i) put(p.c, i, get(c, i));
    if (reversed) {
      const device::Reversed order;
      multiply_case(p);
    } else {
      multiply_case(p);
    }
    cuda::synchronize();
    double top = 0;
    for (double v : want) top = std::fmax(top, std::fabs(v));
    for (int64_t i = 0; i < c.count(); ++i) {
      const double allowed = 2e-6 * top + (c.dtype == DType::kBF16 ? std::fabs(want[size_t(i)]) / 256 : 0);
      ASSERT_NEAR(get(p.c, i), want[size_t(i)], allowed) << name << ", element " << i / s.n << "," << i % s.n;
    }
    p.c = c;
  }
}

}  // namespace

TEST_F(CudaProduct, OfMatricesByRowsAndColumns) {
  // Within a tile, at its edge, past it in all directions; depth of less than a step, of more than all stages.
  const Size sizes[] = {{1, 1, 1}, {64, 64, 64}, {70, 90, 296}, {129, 136, 33}};
  for (int tile : {0, 1, 2, 3})
    for (int form = 0; form < 3; ++form)
      for (const Size& s : sizes) {
        Bench b(Device::kCuda);
        const bool a_columns = form == 2, b_columns = form > 0;
        const ProductCase p{.tile = tile, .a = matrix(b, a_columns, s.m, s.k), .b = matrix(b, b_columns, s.n, s.k),
                            .a_columns = a_columns, .b_columns = b_columns, .weight = nullptr,
                            .bias = b.random(DType::kF32, {s.n}), .splits = s.k > 64 ? 3 : 1,
                            .c = b.random(DType::kF32, {s.m, s.n})};
        expect_product(p, s, s.m, "tile " + std::to_string(tile) + ", form " + std::to_string(form));
      }
}

TEST_F(CudaProduct, OfCodesWithAnAdapter) {
  const Size sizes[] = {{9, 40, 32}, {200, 96, 224}, {65, 160, 64}};
  for (int tile : {0, 1, 2, 3})
    for (bool transposed : {false, true})
      for (float drop : {0.0f, 0.25f})
        for (const Size& s : sizes) {
          Bench b(Device::kCuda);
          const Weight w = transposed ? quantized(b, s.k, s.n) : quantized(b, s.n, s.k);
          if (w.in % 32 != 0) continue;  // such weights are decoded beforehand: linear_test.cpp
          const int64_t rank = s.m % 2 == 0 ? 16 : 5;
          const ProductCase p{.tile = tile, .a = matrix(b, false, s.m, s.k), .b = {}, .a_columns = false,
                              .b_columns = transposed, .weight = &w, .a2 = matrix(b, false, s.m, rank),
                              .b2 = matrix(b, transposed, s.n, rank), .mask = {.p = drop, .seed = 5, .stream = 6},
                              .bias = {}, .rows = {}, .splits = s.m == 200 ? 2 : 1,
                              .c = b.random(DType::kBF16, {s.m, s.n})};
          expect_product(p, s, s.m, "tile " + std::to_string(tile) + (transposed ? ", transposed" : ""));
        }
}

TEST_F(CudaProduct, OfRowsThatTheDeviceCounts) {
  const Size s{150, 64, 32};
  for (int tile : {0, 1, 2, 3})
    for (int count : {0, 20, 25, 100, 170, 400}) {
      Bench b(Device::kCuda);
      const Weight w = quantized(b, s.n, s.k);
      const ProductCase p{.tile = tile, .a = matrix(b, false, s.m, s.k), .b = {}, .a_columns = false, .b_columns = false,
                          .weight = &w, .rows = b.filled(DType::kI32, {1}, count), .before = 20,
                          .splits = tile < 2 ? 1 : 2, .c = b.random(DType::kF32, {s.m, s.n})};
      expect_product(p, s, std::max(0, count - 20), "tile " + std::to_string(tile) + ", " + std::to_string(count) + " rows");
    }
}

// Chunks with some, with all and with none of their rows labelled, and one beyond the last labelled row.
TEST_F(CudaProduct, OfTheLossDoNotDependOnChunks) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    std::vector<std::vector<double>> all;
    for (int64_t chunk : {30, 4, 1}) {
      Bench b(Device::kCuda);
      const int64_t rows = 11, vocabulary = 75, width = 24;
      const Weight w{.out = vocabulary, .in = width, .data = b.random(dtype, {vocabulary, width})};
      const Tensor labels = b.indices(rows, vocabulary);
      for (int64_t n : {0, 1, 2, 5, 10}) put(labels, n, -1);
      const Tensor weights = b.filled(DType::kF32, {rows}, 1);
      for (int64_t n : {3, 8, 10}) put(weights, n, double(n) / 4);
      const CrossEntropyArgs a{.x = b.random(dtype, {rows, width}), .w = w, .labels = labels, .weights = weights,
                               .scale = 0.25f, .loss = b.out(DType::kF32, {rows}), .d_x = b.out(dtype, {rows, width}),
                               .d_w = b.compared(b.random(DType::kF32, {vocabulary, width}))};
      cuda::linear_cross_entropy(a, chunk * vocabulary);
      cuda::synchronize();
      std::vector<double>& values = all.emplace_back();
      for (const Tensor& t : {a.loss, a.d_x, a.d_w})
        for (int64_t i = 0; i < t.count(); ++i) values.push_back(get(t, i));
      ASSERT_EQ(values.size(), all[0].size());
      for (size_t i = 0; i < values.size(); ++i) ASSERT_NEAR(values[i], all[0][i], 1e-6) << i << ", chunks of " << chunk;
      EXPECT_EQ(values[0], 0);
      EXPECT_EQ(values[size_t(rows)], 0);
    }
  }
}

}  // namespace nibble::test
