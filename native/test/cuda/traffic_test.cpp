// What warps of the main kernels ask of shared and of global memory, counted on the emulated card (emulation/traffic.cpp) on
// small cases of the shapes that matter: bank conflicts, and bytes that are moved in vain. docs/cuda.md has the table.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "ops/activation.h"
#include "ops/attention.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/optimizer.h"
#include "ops/quantize4.h"
#include "test/cuda/product_kernels.h"
#include "test/device.h"
#include "test/support.h"

namespace nibble::test {

namespace {

using device::Traffic;

class CudaTraffic : public testing::Test {
  void SetUp() override {
    if (!device::is_emulated()) GTEST_SKIP() << "accesses are counted on the emulated card";
  }
};

// Cycles of shared memory and bytes of global memory in percent of the least that the same accesses could take.
struct Cost {
  int64_t shared, global;
};

int64_t percent(int64_t of, int64_t least) { return least == 0 ? 100 : std::llround(100.0 * double(of) / double(least)); }

// Of the launches of `work` whose accesses are counted, in their order.
void expect_traffic(const std::string& name, const std::vector<Cost>& expected, const std::function<void()>& work) {
  std::vector<Traffic> counted;
  for (const Traffic& t : device::traffic_of(work)) {
    if (t.shared_least + t.global_wanted > 0) counted.push_back(t);
  }
  ASSERT_EQ(counted.size(), expected.size()) << name;
  for (size_t i = 0; i < expected.size(); ++i) {
    const Traffic& t = counted[i];
    EXPECT_EQ(percent(t.shared_cycles, t.shared_least), expected[i].shared) << name << ", launch " << i << ": shared memory";
    EXPECT_EQ(percent(t.global_bytes, t.global_wanted), expected[i].global) << name << ", launch " << i << ": global memory";
  }
}

Weight nf4(Bench& b, int64_t out, int64_t in) {
  Weight w{.out = out, .in = in, .data = b.indices(1, 1), .quantized = true, .dtype = DType::kBF16};
  w.data = b.filled(DType::kU8, {out * in / 2}, 0);
  for (int64_t i = 0; i < w.data.count(); ++i) put(w.data, i, double(i * 37 % 256));
  w.absmax = b.random(DType::kF32, {out * in / 64});
  return w;
}

}  // namespace

TEST_F(CudaTraffic, ProductsOfCodesAndOfMatrices) {
  constexpr int64_t kSize = 256;
  const char* const tiles[] = {"", "64 x 64", "128 x 128", "256 x 128"};
  for (int tile = 1; tile <= 3; ++tile)
    for (bool columns : {false, true}) {
      Bench b(Device::kCuda);
      const Weight w = nf4(b, kSize, kSize);
      ProductCase p{.tile = tile, .a = b.random(DType::kBF16, {kSize, kSize}), .a_columns = false, .b_columns = columns,
                    .weight = &w, .c = b.random(DType::kBF16, {kSize, kSize})};
      // By rows, 32 of the depth are 16 bytes of codes: half of what memory moves. The other half is the next tile's.
      const int64_t global = columns || tile == 1 ? 100 : tile == 2 ? 120 : 111;
      expect_traffic(std::string("codes ") + tiles[tile] + (columns ? ", by columns" : ", by rows"), {{100, global}},
                     [&] { multiply_case(p); });
      p.weight = nullptr;
      p.b = b.random(DType::kBF16, {kSize, kSize});
      p.a_columns = columns;
      expect_traffic(std::string("matrices ") + tiles[tile] + (columns ? ", by columns" : ", by rows"), {{100, 100}},
                     [&] { multiply_case(p); });
    }
}

TEST_F(CudaTraffic, FlashAttention) {
  for (int64_t size : {64, 128}) {
    Bench b(Device::kCuda);
    const int64_t n = 256, heads = 2, kv_heads = 1;
    const AttentionShape shape{heads, kv_heads, 0.1f, 0};
    const auto rows = [&](int64_t of) { return b.random(DType::kBF16, {n, of * size}); };
    const AttentionForwardArgs f{.shape = shape, .q = rows(heads), .k = rows(kv_heads), .v = rows(kv_heads),
                                 .starts = b.values(DType::kI32, {0, double(n)}), .o = rows(heads),
                                 .lse = b.out(DType::kF32, {n, heads})};
    const std::string of_size = " " + std::to_string(size);
    expect_traffic("flash forward" + of_size, {{100, 100}}, [&] { attention_forward(f); });
    expect_traffic("flash backward" + of_size, {{100, 100}, {100, 100}, {100, 100}}, [&] {
      attention_backward({.shape = shape, .d_o = rows(heads), .q = f.q, .k = f.k, .v = f.v, .o = f.o, .lse = f.lse,
                          .starts = f.starts, .d_q = rows(heads), .d_k = rows(kv_heads), .d_v = rows(kv_heads)});
    });
  }
}

TEST_F(CudaTraffic, AttentionOverTheCache) {
  constexpr int64_t kPage = 16, kPages = 20, kHeads = 4, kSize = 128;
  Bench b(Device::kCuda);
  const auto cache = [&] { return b.random(DType::kBF16, {kPages, 1, kPage, kSize}); };
  const Tensor k_cache = cache(), v_cache = cache(), table = b.filled(DType::kI32, {1, kPages}, 0);
  for (int64_t i = 0; i < kPages; ++i) put(table, i, double(i * 7 % kPages));
  const auto attend = [&](int64_t queries) {
    const Tensor sequence = b.filled(DType::kI32, {queries}, 0), position = b.filled(DType::kI32, {queries}, 0);
    for (int64_t i = 0; i < queries; ++i) put(position, i, double(kPage * kPages - queries + i));
    paged_attention({.shape = {kHeads, 1, 0.1f, 0}, .q = b.random(DType::kBF16, {queries, kHeads * kSize}), .k_cache = k_cache,
                     .v_cache = v_cache, .block_table = table, .sequence = sequence, .position = position,
                     .o = b.out(DType::kBF16, {queries, kHeads * kSize})});
  };
  expect_traffic("cache, one query", {{100, 100}}, [&] { attend(1); });
  expect_traffic("cache, a prompt", {{100, 100}}, [&] { attend(128); });
}

TEST_F(CudaTraffic, FewRowsAndAdapters) {
  Bench b(Device::kCuda);
  const Weight w = nf4(b, 64, 1024);
  // A lane reads 64 bytes of a row of x in four accesses, half of the 32 bytes that each moves: the other comes from the L1 cache.
  for (int64_t rows : {1, 8}) {
    const Tensor x = b.random(DType::kBF16, {rows, 1024}), y = b.out(DType::kBF16, {rows, 64});
    expect_traffic("few rows, " + std::to_string(rows), {{100, rows == 1 ? 150 : 189}},
                   [&] { linear_forward({.x = x, .w = w, .y = y}); });
  }
  const LoraAddArgs add{.x = b.random(DType::kBF16, {1, 1024}), .a = b.random(DType::kBF16, {16, 1024}),
                        .b = b.random(DType::kBF16, {16, 1024}), .scaling = 1, .begin = 0, .end = 1,
                        .y = b.random(DType::kBF16, {1, 1024})};
  expect_traffic("an adapter", {{100, 100}, {100, 100}}, [&] { lora_add(add); });
}

TEST_F(CudaTraffic, WhatGoesOverMemoryOnce) {
  Bench b(Device::kCuda);
  constexpr int64_t kCount = 1 << 14;
  const Tensor input = b.random(DType::kBF16, {kCount}), codes = b.filled(DType::kU8, {kCount / 2}, 0);
  const Tensor absmax = b.out(DType::kF32, {kCount / 64});
  expect_traffic("quantize", {{100, 100}}, [&] { quantize4({.input = input, .codes = codes, .absmax = absmax, .type = Code4::kNf4, .block_size = 64}); });
  expect_traffic("dequantize", {{100, 100}},
                 [&] { dequantize4({.codes = codes, .absmax = absmax, .output = input, .type = Code4::kNf4, .block_size = 64}); });
  const auto state = [&] { return b.random(DType::kF32, {kCount}); };
  const AdamwArgs adamw32{.p = state(), .g = state(), .m = state(), .v = b.filled(DType::kF32, {kCount}, 1), .lr = 1e-3,
                          .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0, .grad_scale = 1, .step = 1};
  expect_traffic("AdamW, 32 bits", {{100, 100}}, [&] { adamw(adamw32); });
  AdamwArgs adamw8 = adamw32;
  adamw8.m = b.filled(DType::kU8, {kCount}, 0);
  adamw8.v = b.filled(DType::kU8, {kCount}, 0);
  adamw8.m_absmax = b.filled(DType::kF32, {kCount / 256}, 1);
  adamw8.v_absmax = b.filled(DType::kF32, {kCount / 256}, 1);
  // A lane has 32 bytes of each float32 tensor, in two accesses.
  expect_traffic("AdamW, 8 bits", {{100, 175}}, [&] { adamw(adamw8); });
}

}  // namespace nibble::test
