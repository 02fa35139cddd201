#include "core/memory.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "core/error.h"
#include "test/support.h"

namespace nibble::test {

TEST(Memory, CountsByKindAndKeepsThePeak) {
  Memory memory;
  void* const weights = memory.allocate(1000, Kind::kWeights);
  void* const work = memory.allocate(64, Kind::kWorkspace);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(weights) % 64, 0u);
  std::memset(weights, 1, 1000);
  MemoryReport r = memory.report();
  const int w = int(Kind::kWeights), s = int(Kind::kWorkspace);
  EXPECT_GE(r.current[w], 1000);
  EXPECT_LE(r.current[w], 1000 + 1000 / 8 + 64);
  EXPECT_EQ(r.current[s], 64);
  EXPECT_EQ(r.peak_total, r.current[w] + 64);
  memory.release(work);
  r = memory.report();
  EXPECT_EQ(r.current[s], 0);
  EXPECT_EQ(r.peak[s], 64);
  EXPECT_EQ(r.cached, 64);
  memory.reset_peak();
  EXPECT_EQ(memory.report().peak[s], 0);
  memory.release(weights);
  EXPECT_EQ(memory.report().current[w], 0);
  EXPECT_EQ(memory.report().cached, 64) << "weights go back to the system at once";
  EXPECT_EQ(memory.trim(), 64);
  EXPECT_EQ(memory.report().cached, 0);
}

TEST(Memory, HandsFreedBlocksOutAgain) {
  Memory memory;
  void* const first = memory.allocate(5000, Kind::kActivations);
  memory.release(first);
  void* const second = memory.allocate(4990, Kind::kGradients);
  EXPECT_EQ(second, first);
  EXPECT_EQ(memory.report().cached, 0);
  memory.release(second);
  memory.trim();
}

TEST(Memory, RefusesBeyondTheLimitAndLosesNothing) {
  Memory memory;
  memory.set_limit(1024);
  void* const half = memory.allocate(512, Kind::kOptimizer);
  expect_error("memory limit: 1024 bytes, in use 512, asked for 576 more (gradients)",
               [&] { memory.allocate(576, Kind::kGradients); });
  EXPECT_EQ(memory.report().current[int(Kind::kOptimizer)], 512);
  EXPECT_EQ(memory.report().current[int(Kind::kGradients)], 0);
  void* const rest = memory.allocate(512, Kind::kGradients);
  memory.release(half);
  memory.release(rest);
  memory.trim();
}

TEST(Memory, RefusesWhatIsNoBlock) {
  Memory memory;
  expect_error("bytes: expected >= 0, got -1", [&] { memory.allocate(-1, Kind::kWeights); });
  int other = 0;
  expect_error("not allocated", [&] { memory.release(&other); });
  void* const p = memory.allocate(0, Kind::kWorkspace);
  memory.release(p);
  expect_error("not allocated", [&] { memory.release(p); });
  memory.trim();
}

TEST(Memory, ManyThreadsAtOnce) {
  Memory memory;
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&memory, t] {
      for (int i = 0; i < 300; ++i) {
        void* const p = memory.allocate((i * 37 + t) % 3000, Kind(i % kKinds));
        memory.report();
        memory.release(p);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (int k = 0; k < kKinds; ++k) EXPECT_EQ(memory.report().current[k], 0);
  memory.trim();
}

}  // namespace nibble::test
