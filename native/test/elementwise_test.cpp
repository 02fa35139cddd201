#include "ops/elementwise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "ops/philox.h"
#include "test/support.h"

namespace nibble::test {

TEST(Elementwise, LikeReference) {
  for (int64_t n : {0, 1, 3, 4, 15, 16, 17, 20003})
    for (DType dtype : {DType::kF32, DType::kBF16})
      expect_like_reference("elementwise", 1e-7, [&](Bench& b) {
        add({.x = b.random(dtype, {n}), .y = b.compared(b.random(dtype, {n}))});
        add({.x = b.random(dtype, {n}), .y = b.compared(b.random(DType::kF32, {n}))});
        scale({.y = b.compared(b.random(dtype, {n})), .factor = -0.37f});
        for (bool normal : {false, true}) {
          random_fill({.y = b.out(DType::kF32, {n}), .normal = normal, .low = 1, .high = 3, .seed = 5, .stream = 6});
        }
      });
}

// All 16-bit patterns widen and come back; every float32 of a sweep rounds as the scalar code does.
TEST(Elementwise, ConvertsEveryBitPattern) {
  for_each_isa([](const std::string& isa) {
    Bench b(Device::kCpu);
    for (DType dtype : {DType::kBF16, DType::kF16}) {
      const Tensor half = b.filled(dtype, {65536}, 0), wide = b.filled(DType::kF32, {65536}, 0);
      for (int i = 0; i < 65536; ++i) half.u16()[i] = uint16_t(i);
      convert({.x = half, .y = wide});
      for (int i = 0; i < 65536; ++i) {
        const float want = dtype == DType::kBF16 ? bf16_to_float(uint16_t(i)) : f16_to_float(uint16_t(i));
        if (std::isnan(want)) ASSERT_TRUE(std::isnan(wide.f32()[i])) << isa;
        else ASSERT_EQ(float_to_bits(wide.f32()[i]), float_to_bits(want)) << isa << " pattern " << i;
      }
      for (uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
        for (int i = 0; i < 65536; ++i) wide.f32()[i] = bits_to_float((uint32_t(i) << 16) | low);
        convert({.x = wide, .y = half});
        for (int i = 0; i < 65536; ++i) {
          const float x = wide.f32()[i];
          const uint16_t want = dtype == DType::kBF16 ? float_to_bf16(x) : float_to_f16(x);
          ASSERT_EQ(half.u16()[i], want) << isa << " " << name_of(dtype) << " of bits " << float_to_bits(x);
        }
      }
    }
  });
}

// Known answers of Random123's kat_vectors for philox4x32-10.
TEST(Philox, KnownAnswers) {
  const Philox4 zero = philox4(0, 0, 0);
  const uint32_t want_zero[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
  EXPECT_EQ(std::memcmp(zero.value, want_zero, 16), 0);
  const Philox4 ones = philox4(~0ull, ~0ull, ~0ull);
  const uint32_t want_ones[4] = {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd};
  EXPECT_EQ(std::memcmp(ones.value, want_ones, 16), 0);
}

}  // namespace nibble::test
