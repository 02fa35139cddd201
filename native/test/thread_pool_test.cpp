#include "core/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "test/support.h"

namespace nibble::test {

namespace {

struct Threads {
  int before = thread_count();
  explicit Threads(int count) { set_thread_count(count); }
  ~Threads() { set_thread_count(before); }
};

}  // namespace

TEST(ThreadPool, RunsEachTaskOnce) {
  for (int threads : {1, 2, 3, 16}) {
    const Threads set(threads);
    EXPECT_EQ(thread_count(), threads);
    for (Share share : {Share::kRun, Share::kDealt})
      for (int64_t tasks : {0, 1, 2, 17, 1000}) {
        std::vector<std::atomic<int>> count(static_cast<size_t>(tasks));
        parallel_for(tasks, [&](int64_t task) { ++count[size_t(task)]; }, share);
        for (auto& c : count) EXPECT_EQ(c, 1);
      }
  }
}

TEST(ThreadPool, WhatTasksWriteIsSeenAfterwards) {
  const Threads set(4);
  std::vector<int64_t> values(500);
  for (int round = 0; round < 100; ++round) {
    parallel_for(500, [&](int64_t task) { values[size_t(task)] += task; });
  }
  for (int64_t i = 0; i < 500; ++i) EXPECT_EQ(values[size_t(i)], i * 100);
}

TEST(ThreadPool, NestedCallsRunSerially) {
  const Threads set(4);
  std::atomic<int64_t> total{0};
  parallel_for(20, [&](int64_t outer) {
    int64_t own = 0;  // no atomic: the inner tasks run on this thread
    parallel_for(10, [&](int64_t inner) { own += outer * 10 + inner; });
    parallel_for(3, [&](int64_t) { parallel_for(2, [&](int64_t) { ++own; }); });
    total += own - 6;
  });
  EXPECT_EQ(total, 199 * 200 / 2);
}

TEST(ThreadPool, AfterANestedCallTheCallerIsParallelAgain) {
  const Threads set(3);
  parallel_for(2, [](int64_t) { parallel_for(2, [](int64_t) {}); });
  std::atomic<int> inside{0};
  std::atomic<bool> met{false};
  // Two tasks that each wait for the other: they end only if two threads run them.
  parallel_for(2, [&](int64_t) {
    ++inside;
    for (int64_t spin = 0; spin < 2'000'000'000 && !met; ++spin) {
      if (inside == 2) met = true;
      std::this_thread::yield();
    }
  });
  EXPECT_TRUE(met);
}

TEST(ThreadPool, AThreadThatIsDoneTakesTasksOfOthers) {
  const Threads set(2);
  std::atomic<int> others{0};
  bool met = false;
  // The first task of a share waits for all that come after it: only the other thread can do them.
  parallel_for(9, [&](int64_t task) {
    if (task > 0) {
      ++others;
      return;
    }
    for (int64_t spin = 0; spin < 2'000'000'000 && others < 8; ++spin) std::this_thread::yield();
    met = others == 8;
  });
  EXPECT_TRUE(met);
}

TEST(ThreadPool, SeveralCallersTakeTurns) {
  const Threads set(3);
  std::atomic<int64_t> total{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 6; ++c) {
    callers.emplace_back([&] {
      for (int i = 0; i < 50; ++i) parallel_for(8, [&](int64_t task) { total += task; });
    });
  }
  for (auto& caller : callers) caller.join();
  EXPECT_EQ(total, 6 * 50 * 28);
}

TEST(ThreadPool, ResizesBetweenCalls) {
  const Threads set(2);
  for (int i = 0; i < 20; ++i) {
    set_thread_count(1 + i % 5);
    std::atomic<int> count{0};
    parallel_for(64, [&](int64_t) { ++count; });
    EXPECT_EQ(count, 64);
  }
  expect_error("threads: expected 1..1024, got 0", [] { set_thread_count(0); });
}

}  // namespace nibble::test
