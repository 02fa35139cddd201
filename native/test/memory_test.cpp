#include "core/memory.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "test/support.h"

namespace nibble::test {

namespace {

// An empty folder of the working directory, which is on a disk.
class Folder {
 public:
  Folder() : path_(std::filesystem::current_path() / "spill-test") { std::filesystem::create_directories(path_); }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string path() const { return path_.string(); }
  bool is_empty() const { return std::filesystem::is_empty(path_); }

 private:
  std::filesystem::path path_;
};

}  // namespace

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

TEST(Memory, CutsALargerBlockWhereItWouldHaveToMakeRoom) {
  Memory memory;
  constexpr int64_t kLarge = 1 << 20, kSmall = 5 << 17;
  auto* const large = static_cast<uint8_t*>(memory.allocate(kLarge, Kind::kActivations));
  std::memset(large, 7, kLarge);
  memory.release(large);
  auto* const small = static_cast<uint8_t*>(memory.allocate(kSmall, Kind::kWorkspace));
  EXPECT_EQ(small, large);
  EXPECT_EQ(small[kSmall - 1], 7) << "pages that were there already";
  EXPECT_EQ(memory.report().cached, kLarge - kSmall);
  EXPECT_EQ(memory.report().current[int(Kind::kWorkspace)], kSmall);
  auto* const rest = static_cast<uint8_t*>(memory.allocate(kLarge - kSmall, Kind::kWorkspace));
  EXPECT_EQ(rest, large + kSmall);
  EXPECT_EQ(rest[kLarge - kSmall - 1], 7);
  EXPECT_EQ(memory.report().cached, 0);
  memory.release(small);
  memory.release(rest);
  EXPECT_EQ(memory.trim(), kLarge);
}

TEST(Memory, GivesARestThatIsNoMappingBack) {
  Memory memory;
  constexpr int64_t kLarge = 1 << 20, kRest = 1 << 16;
  memory.release(memory.allocate(kLarge, Kind::kActivations));
  void* const small = memory.allocate(kLarge - kRest, Kind::kActivations);
  EXPECT_EQ(memory.report().cached, 0);
  memory.release(small);
  EXPECT_EQ(memory.trim(), kLarge - kRest);
}

TEST(Memory, WeightsShareLargeMappings) {
  Memory memory;
  const int64_t bytes = 700 << 10, count = 100;  // several slabs
  std::vector<uint8_t*> blocks;
  for (int64_t i = 0; i < count; ++i) {
    blocks.push_back(static_cast<uint8_t*>(memory.allocate(bytes, Kind::kWeights)));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(blocks.back()) % 64, 0u);
    std::memset(blocks.back(), int(i), size_t(bytes));
  }
  for (int64_t i = 0; i < count; i += 2) memory.release(blocks[size_t(i)]);
  for (int64_t i = 1; i < count; i += 2) {
    EXPECT_EQ(blocks[size_t(i)][0], uint8_t(i)) << "a neighbour's release leaves it";
    EXPECT_EQ(blocks[size_t(i)][bytes - 1], uint8_t(i));
    memory.release(blocks[size_t(i)]);
  }
  EXPECT_EQ(memory.report().current[int(Kind::kWeights)], 0);
  // Of a model loaded tensor by tensor, the second lies where the first lay.
  void* const first = memory.allocate(bytes, Kind::kWeights);
  memory.release(first);
  void* const second = memory.allocate(bytes, Kind::kWeights);
  EXPECT_EQ(first, second);
  memory.release(second);
  memory.trim();
}

TEST(Slabs, GoBackWithTheirLastBlock) {
  Slabs slabs;
  int outside = 0;
  EXPECT_FALSE(slabs.release(&outside));
  std::vector<void*> blocks;
  for (int64_t i = 0; i < 3 * Slabs::kBytes / (1 << 20); ++i) blocks.push_back(slabs.allocate(1 << 20));
  for (void* block : blocks) EXPECT_TRUE(slabs.release(block));
  EXPECT_FALSE(slabs.release(blocks.front())) << "its slab was unmapped";
  slabs.trim();
  EXPECT_FALSE(slabs.release(blocks.back()));
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

TEST(Memory, KeepsFreedBlocksWithinTheMostThatWasInUse) {
  Memory memory;
  void* const large = memory.allocate(1 << 20, Kind::kActivations);
  memory.release(large);
  const int64_t most = memory.report().peak_total;
  // Other sizes than the one that is kept: it makes room for them.
  for (int64_t bytes = 1 << 18; bytes < 1 << 20; bytes += 50000) {
    void* const p = memory.allocate(bytes, Kind::kActivations);
    std::memset(p, 1, size_t(bytes));
    const MemoryReport r = memory.report();
    EXPECT_LE(r.current[int(Kind::kActivations)] + r.cached, most);
    memory.release(p);
  }
  EXPECT_GT(memory.report().cached, 0);
  memory.trim();
}

TEST(Memory, SaysWhatWasInUseAtThePeak) {
  Memory memory;
  void* const a = memory.allocate(640, Kind::kGradients);
  void* const b = memory.allocate(640, Kind::kWorkspace);
  memory.release(a);
  memory.release(b);
  void* const c = memory.allocate(704, Kind::kActivations);
  const MemoryReport r = memory.report();
  EXPECT_EQ(r.peak_total, 1280);
  EXPECT_EQ(r.at_peak[int(Kind::kGradients)], 640);
  EXPECT_EQ(r.at_peak[int(Kind::kWorkspace)], 640);
  EXPECT_EQ(r.at_peak[int(Kind::kActivations)], 0);
  memory.release(c);
  memory.trim();
}

TEST(Memory, CountsWithoutMemory) {
  Memory real, counted(Source::kNowhere);
  for (Memory* m : {&real, &counted}) {
    void* const a = m->allocate(3000, Kind::kWorkspace);
    void* const b = m->allocate(300000, Kind::kActivations);
    EXPECT_NE(a, b);
    m->release(a);
    m->release(m->allocate(2990, Kind::kGradients));
    m->release(b);
  }
  const MemoryReport r = real.report(), c = counted.report();
  EXPECT_EQ(r.peak_total, c.peak_total);
  EXPECT_EQ(r.cached, c.cached);
  counted.release(counted.allocate(int64_t{1} << 50, Kind::kWeights));
  EXPECT_EQ(counted.report().peak_total, int64_t{1} << 50);
  real.trim();
  counted.trim();
}

TEST(Memory, PagesInAFileWithoutAName) {
  const Folder folder;
  Memory memory;
  auto* const p = static_cast<uint8_t*>(memory.allocate_paged(10000, folder.path()));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 4096, 0u);
  for (int i = 0; i < 10000; ++i) ASSERT_EQ(p[i], 0) << i;
  std::memset(p, 7, 10000);
  memory.advise(p, Use::kLater);
  memory.advise(p, Use::kSoon);
  EXPECT_EQ(p[9999], 7);
  EXPECT_EQ(memory.report().paged, 12288);
  EXPECT_EQ(memory.report().peak_total, 0);
  EXPECT_TRUE(folder.is_empty());
  memory.release(p);
  EXPECT_EQ(memory.report().paged, 0);
  EXPECT_EQ(memory.report().paged_peak, 12288);
}

TEST(Memory, RefusesToPageWhereItCannot) {
  Memory memory;
  expect_error("/no/such/folder: expected a folder for the spill file",
               [&] { memory.allocate_paged(100, "/no/such/folder"); });
  const Folder folder;
  expect_error("no room for a spill file of 1152921504606846976 bytes",
               [&] { memory.allocate_paged(int64_t{1} << 60, folder.path()); });
  EXPECT_TRUE(folder.is_empty());
  EXPECT_EQ(memory.report().paged, 0);
  if (!std::filesystem::exists("/dev/shm")) return;
  expect_error("/dev/shm: expected a folder on a disk, got one in memory",
               [&] { memory.allocate_paged(100, "/dev/shm"); });
}

TEST(Memory, APoolsBlocksStayWhereTheyAreAndInUse) {
  Memory memory;
  Pool pool;
  const int w = int(Kind::kWorkspace);
  void* const before = memory.allocate(1000, Kind::kWorkspace);
  memory.use_pool(&pool);
  void* const block = memory.allocate(1000, Kind::kWorkspace);
  memory.release(block);
  EXPECT_EQ(memory.allocate(1000, Kind::kActivations), block);
  memory.release(block);
  memory.use_pool(nullptr);
  EXPECT_EQ(memory.report().current[w], 2048);
  void* const other = memory.allocate(1000, Kind::kWorkspace);
  EXPECT_NE(other, block);
  memory.trim();
  memory.use_pool(&pool);
  EXPECT_EQ(memory.allocate(1000, Kind::kWorkspace), block) << "it is the pool's still";
  memory.use_pool(nullptr);
  memory.free_pool(pool);
  EXPECT_EQ(memory.report().current[w], 3072) << "what has an owner stays his";
  for (void* const p : {before, block, other}) memory.release(p);
  EXPECT_EQ(memory.report().current[w], 0);
  EXPECT_EQ(memory.trim(), 3072);
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
