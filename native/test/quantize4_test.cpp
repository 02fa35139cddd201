#include "ops/quantize4.h"

#include <gtest/gtest.h>

#include <cmath>

#include "test/support.h"

namespace nibble::test {

namespace {

void round_trip(Bench& b, const Tensor& input, Code4 type, int64_t block_size) {
  const int64_t n = input.count(), blocks = (n + block_size - 1) / block_size;
  const Tensor codes = b.out(DType::kU8, {(n + 1) / 2}), absmax = b.out(DType::kF32, {blocks});
  quantize4({.input = input, .codes = codes, .absmax = absmax, .type = type, .block_size = block_size});
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    dequantize4({.codes = codes, .absmax = absmax, .output = b.out(dtype, {n}), .type = type,
                 .block_size = block_size});
  }
}

}  // namespace

TEST(Quantize4, HasTheBytesOfTheReference) {
  for (Code4 type : {Code4::kNf4, Code4::kFp4, Code4::kInt4})
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
      for (int64_t block_size : {32, 64, 4096})
        for (int64_t n : {0, 1, 2, 31, 32, 33, 64, 95, 1000, 4097, 70001})
          expect_like_reference("quantize4", 0, [&](Bench& b) { round_trip(b, b.random(dtype, {n}), type, block_size); });
}

TEST(Quantize4, HasTheBytesOfTheReferenceAtTheEdges) {
  for (Code4 type : {Code4::kNf4, Code4::kFp4, Code4::kInt4})
    for (double first : {0.0, -0.0, 1e-45, -1e-40, 1e-38, 3e38, double(INFINITY)})
      expect_like_reference("quantize4", 0, [&](Bench& b) {
        const Tensor input = b.random(DType::kF32, {160}, 1e-38);
        for (int64_t i = 64; i < 160; i += 5) put(input, i, first);
        round_trip(b, input, type, 64);
      });
}

TEST(Quantize4, HasTheBytesOfTheReferenceAroundEveryThreshold) {
  for (Code4 type : {Code4::kNf4, Code4::kFp4, Code4::kInt4}) {
    expect_like_reference("quantize4", 0, [&](Bench& b) {
      const Tensor input = b.filled(DType::kF32, {64}, 0);
      int64_t i = 0;
      for (float t : codebook4(type).threshold)
        for (float x : {std::nextafter(t, -2.0f), t, std::nextafter(t, 2.0f)}) put(input, i++, x);
      put(input, i++, 1);  // the block's absmax, so that nothing is scaled
      put(input, i++, -1);
      for (int cell = -8; cell <= 8; ++cell) put(input, i++, cell / 8.0);
      ASSERT_LE(i, 64);
      round_trip(b, input, type, 64);
    });
  }
}

TEST(Quantize4, NanIsTheBlocksAbsmax) {
  for_each_isa([](const std::string& isa) {
    Bench b(Device::kCpu);
    const Tensor input = b.random(DType::kF32, {64}), codes = b.out(DType::kU8, {32}), absmax = b.out(DType::kF32, {2});
    put(input, 3, NAN);
    quantize4({.input = input, .codes = codes, .absmax = absmax, .type = Code4::kNf4, .block_size = 32});
    EXPECT_TRUE(std::isnan(absmax.f32()[0])) << isa;
    EXPECT_FALSE(std::isnan(absmax.f32()[1])) << isa;
  });
}

TEST(Quantize4, DoubleQuantizationStaysNear) {
  for (int64_t m : {1, 255, 256, 257, 1000}) {
    Bench b(Device::kCpu);
    const Tensor absmax = b.random(DType::kF32, {m}), codes = b.out(DType::kU8, {m}), offset = b.out(DType::kF32, {1});
    const Tensor nested = b.out(DType::kF32, {(m + 255) / 256}), map = b.filled(DType::kF32, {256}, 0);
    quantize_absmax({.absmax = absmax, .codes = codes, .nested_absmax = nested, .offset = offset});
    for (int i = 0; i < 256; ++i) map.f32()[i] = float(i - 127) / 128;
    const Tensor back = b.out(DType::kF32, {m});
    dequantize_absmax({.codes = codes, .nested_absmax = nested, .map = map, .offset = offset, .absmax = back});
    for (int64_t i = 0; i < m; ++i) ASSERT_TRUE(std::isfinite(get(back, i)));
  }
}

TEST(Quantize4, CountsNonfinite) {
  Bench b(Device::kCpu);
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Tensor x = b.random(dtype, {100});
    EXPECT_EQ(count_nonfinite(x), 0);
    put(x, 0, NAN);
    put(x, 50, INFINITY);
    put(x, 99, -INFINITY);
    EXPECT_EQ(count_nonfinite(x), 3);
  }
}

}  // namespace nibble::test
