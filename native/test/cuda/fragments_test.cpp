// The matrix instructions and the copies that the CUDA backend's products and attention are made of, alone: on a card
// this holds what the emulation takes for granted.
#include <gtest/gtest.h>

#include "core/device_memory.h"
#include "test/cuda/fragment_kernels.h"
#include "test/device.h"
#include "test/support.h"

namespace nibble::test {

namespace {

class CudaFragments : public testing::Test {
  void SetUp() override {
    if (!device::has_cuda()) GTEST_SKIP() << cuda::unavailable();
  }
};

// Small whole numbers: every sum is exact.
Tensor whole_numbers(Bench& b, int64_t rows, int64_t columns) {
  const Tensor t = b.filled(DType::kBF16, {rows, columns}, 0);
  for (int64_t i = 0; i < t.count(); ++i) put(t, i, double(int64_t(b.uniform() * 33) - 16));
  return t;
}

}  // namespace

TEST_F(CudaFragments, MultiplyAsTheMatricesDo) {
  for (bool transposed : {false, true})
    for (bool by_hand : {false, true})
      for (bool reversed : {false, true}) {
        Bench bench(Device::kCuda);
        const Tensor a = whole_numbers(bench, 16, 16);
        const Tensor b = transposed ? whole_numbers(bench, 16, 8) : whole_numbers(bench, 8, 16);
        const Tensor c = bench.filled(DType::kF32, {16, 8}, 0.5);
        if (reversed) {
          const device::Reversed order;
          multiply_fragments(a, b, c, transposed, by_hand);
        } else {
          multiply_fragments(a, b, c, transposed, by_hand);
        }
        cuda::synchronize();
        for (int64_t m = 0; m < 16; ++m)
          for (int64_t n = 0; n < 8; ++n) {
            double want = 0.5;
            for (int64_t k = 0; k < 16; ++k)
              want += transposed ? get(a, k * 16 + m) * get(b, k * 8 + n) : get(a, m * 16 + k) * get(b, n * 16 + k);
            EXPECT_EQ(get(c, m * 8 + n), want) << m << "," << n << (transposed ? " transposed" : "")
                                               << (by_hand ? " by hand" : "");
          }
      }
}

TEST_F(CudaFragments, CopiesArriveByGroupsAndEndWithZeros) {
  for (int tail : {0, 5, 16}) {
    Bench b(Device::kCuda);
    const Tensor from = b.filled(DType::kU8, {96}, 0), first = b.filled(DType::kU8, {96}, 7);
    const Tensor both = b.filled(DType::kU8, {96}, 7);
    for (int64_t i = 0; i < 96; ++i) put(from, i, double(i + 1));
    copy_in_groups(from, first, both, tail);
    cuda::synchronize();
    for (int64_t i = 0; i < 96; ++i) {
      EXPECT_EQ(get(both, i), i < 80 + tail ? double(i + 1) : 0) << i;
      if (i < 48) {
        EXPECT_EQ(get(first, i), double(i + 1)) << i;
      } else if (device::is_emulated()) {  // a missing wait is to be seen: nothing comes before it is waited for
        EXPECT_EQ(get(first, i), 255) << i;
      }
    }
  }
}

}  // namespace nibble::test
