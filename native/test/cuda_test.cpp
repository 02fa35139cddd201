// What only the CUDA device has: its memory, faults that come with the next wait, sums in fixed orders, and numbers that
// the host waits for. Its kernels are tested where the other backends' are, by expect_like_reference.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/device_graph.h"
#include "core/device_memory.h"
#include "core/error.h"
#include "core/memory.h"
#include "ops/code8.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/optimizer.h"
#include "ops/quantize4.h"
#include "ops/sampling.h"
#include "test/device.h"
#include "test/support.h"

namespace nibble::test {

namespace {

class Cuda : public testing::Test {
  void SetUp() override {
    if (device::has_cuda()) return;
    if (std::getenv("NIBBLE_REQUIRE_CUDA") != nullptr) FAIL() << cuda::unavailable();
    GTEST_SKIP() << cuda::unavailable();
  }
};

}  // namespace

TEST_F(Cuda, MoreThanTheDeviceHasIsAnErrorAndTheNextCallWorks) {
  Memory& memory = cuda_memory();
  void* const held = memory.allocate(1000, Kind::kAdapter);
  try {
    memory.allocate(int64_t{1} << 45, Kind::kActivations);
    ADD_FAILURE() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kResourceExhausted);
    EXPECT_NE(std::string(error.what()).find("the device refused"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("adapter 1024"), std::string::npos) << error.what();
  }
  expect_error("the device has less memory free than would be paged", [&] { memory.allocate_paged(int64_t{1} << 45, ""); });
  void* const next = memory.allocate(1000, Kind::kActivations);
  memory.release(next);
  memory.release(held);
}

TEST_F(Cuda, TheLimitIsACapOfTheDeviceAlone) {
  Memory& memory = cuda_memory();
  memory.set_limit(1 << 20);
  expect_error("memory limit: 1048576 bytes", [&] { memory.allocate(2 << 20, Kind::kWeights); });
  nibble::memory().release(nibble::memory().allocate(2 << 20, Kind::kWeights));
  memory.set_limit(0);
}

TEST_F(Cuda, BytesGoThereAndComeBack) {
  std::vector<uint8_t> bytes(20'000'001), back(bytes.size());
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = uint8_t(i % 251);
  Memory& memory = cuda_memory();
  auto* const there = static_cast<uint8_t*>(memory.allocate(int64_t(bytes.size()), Kind::kWorkspace));
  cuda::upload(there, bytes.data(), int64_t(bytes.size()));
  cuda::download(back.data(), there, int64_t(bytes.size()));
  EXPECT_EQ(back, bytes);
  cuda::clear(there, 3);
  cuda::download(back.data(), there, 4);
  EXPECT_EQ(std::vector<uint8_t>(back.begin(), back.begin() + 4), (std::vector<uint8_t>{0, 0, 0, 3}));
  memory.release(there);
  EXPECT_GE(memory.report().cached, int64_t(bytes.size()));
  EXPECT_GE(memory.trim(), int64_t(bytes.size()));
}

TEST_F(Cuda, RecordedWorkReadsWhatItsTensorsHoldWhenItIsReplayed) {
  Bench b(Device::kCuda);
  const Tensor x = b.values(DType::kF32, {1, 2, 3}), y = b.values(DType::kF32, {10, 20, 30});
  cuda::begin_recording();
  add({.x = x, .y = y});
  expect_error("expected work that can be recorded", [] { cuda::synchronize(); });
  expect_error("expected work that can be recorded", [] { cuda::begin_recording(); });
  const std::unique_ptr<cuda::Graph> graph = cuda::end_recording();
  EXPECT_EQ(get(y, 0), 10) << "recorded, not run";
  graph->replay();
  EXPECT_EQ(get(y, 0), 11);
  put(x, 2, 100);
  graph->replay();
  EXPECT_EQ(get(y, 1), 24);
  EXPECT_EQ(get(y, 2), 133);
  expect_error("graph", [] { cuda::end_recording(); });
}

TEST_F(Cuda, PagedMemoryIsZeroAndCountedApart) {
  Memory& memory = cuda_memory();
  const int64_t before = memory.report().paged;
  void* const data = memory.allocate_paged(100'000, "");
  EXPECT_EQ(memory.report().paged - before, 102'400);
  memory.advise(data, Use::kSoon);
  uint8_t first = 1;
  cuda::download(&first, data, 1);
  EXPECT_EQ(first, 0);
  memory.advise(data, Use::kLater);
  memory.release(data);
  EXPECT_EQ(memory.report().paged, before);
}

TEST_F(Cuda, AnIndexOutOfRangeIsLeftOutAndSaidWhenTheDeviceIsWaitedFor) {
  Bench b(Device::kCuda);
  const Tensor table = b.random(DType::kF32, {3, 40}), y = b.out(DType::kF32, {4, 40});
  const Tensor ids = b.values(DType::kI32, {2, 3, -1, 0});
  embedding_forward({.table = table, .ids = ids, .y = y});
  expect_error("[embedding] ids: expected indices in range", [] { cuda::synchronize(); });
  EXPECT_EQ(get(y, 0), get(table, 80));
  EXPECT_EQ(get(y, 40), 0);
  EXPECT_EQ(get(y, 80), 0);
  EXPECT_EQ(get(y, 120), get(table, 0));
}

TEST_F(Cuda, DoubleQuantizationHasTheBitsOfTheHost) {
  for (int64_t m : {0, 1, 7, 8, 31, 32, 255, 256, 257, 8191, 8192, 8200, 131'072, 300'017})
    expect_like_reference("quantize_absmax", 0, [&](Bench& b) {
      const Tensor absmax = b.random(DType::kF32, {m});
      const Tensor codes = b.out(DType::kU8, {m}), nested = b.out(DType::kF32, {(m + kBlock8 - 1) / kBlock8});
      const Tensor offset = b.out(DType::kF32, {1}), map = b.random(DType::kF32, {256});
      quantize_absmax({.absmax = absmax, .codes = codes, .nested_absmax = nested, .offset = offset});
      const Tensor back = b.out(DType::kF32, {m});
      dequantize_absmax({.codes = codes, .nested_absmax = nested, .map = map, .offset = offset, .absmax = back});
    });
}

TEST_F(Cuda, CountsNonfinite) {
  Bench b(Device::kCuda);
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Tensor x = b.random(dtype, {70'000});
    EXPECT_EQ(count_nonfinite(x), 0);
    put(x, 0, NAN);
    put(x, 50, INFINITY);
    put(x, 69'999, -INFINITY);
    EXPECT_EQ(count_nonfinite(x), 3);
  }
}

TEST_F(Cuda, SumsSquaresOfManyTensors) {
  Bench b(Device::kCuda);
  std::vector<Tensor> all;
  double want = 0;
  for (int64_t n : {0, 1, 255, 16'384, 16'385, 100'000}) {
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      all.push_back(b.random(dtype, {n}));
      for (int64_t i = 0; i < n; ++i) want += get(all.back(), i) * get(all.back(), i);
    }
  }
  EXPECT_NEAR(sum_squares(all.data(), int(all.size())), want, want * 1e-13);
}

TEST_F(Cuda, ChoosesTokensAsTheCpu) {
  for (float temperature : {0.0f, 0.7f})
    for (double penalty : {1.0, 1.3}) {
      const auto choose = [&](Device device) {
        Bench b(device);
        const Tensor logits = b.random(DType::kF32, {3, 5000}, 4), ids = b.indices(20, 5000);
        std::vector<int32_t> seen;
        for (int64_t i = 0; i < 20; ++i) seen.push_back(int32_t(get(ids, i)));
        put(logits, 5000 + 4321, 9);
        put(logits, 5000 + 1234, 9);  // the lowest id of equals is taken
        const SampleArgs a{.row = 1, .temperature = temperature, .top_k = 50, .top_p = 0.9f,
                           .repetition_penalty = float(penalty), .seen = seen.data(), .seen_count = 20, .seed = 7,
                           .stream = 3};
        Sample drawn;
        sample(logits, &a, 1, &drawn);
        return drawn;
      };
      const Sample cpu = choose(Device::kCpu), cuda = choose(Device::kCuda);
      EXPECT_EQ(cuda.token, cpu.token);
      EXPECT_NEAR(cuda.logprob, cpu.logprob, 1e-5);
    }
  Bench b(Device::kCuda);
  const Tensor logits = b.random(DType::kF32, {1, 100});
  put(logits, 99, NAN);
  const SampleArgs a{.row = 0, .temperature = 0};
  Sample drawn;
  sample(logits, &a, 1, &drawn);
  EXPECT_EQ(drawn.token, kNoToken);
}

TEST_F(Cuda, DrawsTheCpusTokensFromFewOfThem) {
  const auto draw = [](Device device, double spread, const SampleArgs& like) {
    Bench b(device);
    const Tensor logits = b.random(DType::kF32, {4, 3000}, spread);
    for (int64_t i = 0; i < 3000; i += 7) put(logits, 3000 + i, -INFINITY);
    for (int64_t i = 0; i < 3000; ++i) put(logits, 6000 + i, i < 600 ? 2 : 1);  // more equals than are looked at
    std::vector<SampleArgs> rows(40, like);
    for (size_t i = 0; i < rows.size(); ++i) rows[i].row = int64_t(i % 4), rows[i].stream = i, rows[i].seed = 11;
    std::vector<Sample> drawn(rows.size());
    sample(logits, rows.data(), int(rows.size()), drawn.data());
    return drawn;
  };
  // Peaked and flat; the flat ones need more tokens than come down.
  for (double spread : {12.0, 1.0})
    for (const SampleArgs& like : std::vector<SampleArgs>{{.temperature = 1},
                                                          {.temperature = 0.7f, .top_k = 40},
                                                          {.temperature = 1.5f, .top_k = 1000},
                                                          {.temperature = 1, .top_p = 0.8f},
                                                          {.temperature = 0.5f, .top_k = 256, .top_p = 0.9f},
                                                          {.temperature = 1, .min_p = 0.05f}}) {
      const std::vector<Sample> cpu = draw(Device::kCpu, spread, like), card = draw(Device::kCuda, spread, like);
      for (size_t i = 0; i < cpu.size(); ++i) {
        EXPECT_EQ(card[i].token, cpu[i].token) << i << ", top_k " << like.top_k << ", top_p " << like.top_p;
        EXPECT_NEAR(card[i].logprob, cpu[i].logprob, 1e-5);
      }
    }
}

}  // namespace nibble::test
