#include "core/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "core/error.h"

namespace nibble {

namespace {

thread_local bool inside_task = false;

// How long a thread looks for work before it sleeps. Ops of a step follow each other within this time, JavaScript between
// them included, and waking a sleeping thread takes longer than a small op.
constexpr std::chrono::microseconds kAlertTime{250};

// Not sched_yield: on a busy machine that gives the core away for a whole time slice.
void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <typename Ready>
void look_for(const Ready& ready) {
  const auto deadline = std::chrono::steady_clock::now() + kAlertTime;
  while (!ready() && std::chrono::steady_clock::now() < deadline) pause();
}

// Tasks that are left of one thread's share, by their number in it. It takes them from the front; a thread that has done
// its own takes others' from the back. On a cache line of its own.
class alignas(64) Hand {
 public:
  void set(int64_t begin, int64_t end) { left_.store(uint64_t(end) << 32 | uint64_t(begin), std::memory_order_relaxed); }
  int64_t take_first() {
    uint64_t left = left_.load(std::memory_order_relaxed);
    while (begin_of(left) < end_of(left))
      if (left_.compare_exchange_weak(left, left + 1)) return begin_of(left);
    return -1;
  }
  int64_t take_last() {
    uint64_t left = left_.load(std::memory_order_relaxed);
    while (begin_of(left) < end_of(left))
      if (left_.compare_exchange_weak(left, left - (uint64_t{1} << 32))) return end_of(left) - 1;
    return -1;
  }

 private:
  static int64_t begin_of(uint64_t left) { return int64_t(left & 0xffffffffu); }
  static int64_t end_of(uint64_t left) { return int64_t(left >> 32); }
  std::atomic<uint64_t> left_{0};
};
constexpr int64_t kTasksMax = (int64_t{1} << 32) - 1;

class Pool {
 public:
  explicit Pool(int threads) { start(threads); }
  ~Pool() { stop(); }

  int size() const { return int(workers_.size()) + 1; }

  void resize(int threads) {
    std::lock_guard<std::mutex> one_caller(caller_);
    if (threads == size()) return;
    stop();
    start(threads);
  }

  void run(int64_t tasks, void* context, TaskFunction fn, Share share) {
    std::lock_guard<std::mutex> one_caller(caller_);
    for (int i = 0; i < size(); ++i) {
      if (share == Share::kRun) hands_[size_t(i)].set(tasks * i / size(), tasks * (i + 1) / size());
      else hands_[size_t(i)].set(0, (tasks - i + size() - 1) / size());
    }
    share_ = share;
    context_ = context;
    fn_ = fn;
    calls_.store((calls_.load() & kNumber) + kOneCall + kOpen);
    notify(sleeping_ > 0, wake_);
    work(0);
    // All tasks are taken: a worker that is still asleep is not waited for.
    calls_.fetch_and(~kOpen);
    const auto all_left = [this] { return (calls_ & kBusy) == 0; };
    look_for(all_left);
    if (!all_left()) sleep(caller_sleeps_, idle_, all_left);
  }

 private:
  // The state of the pool in one number, so that a call costs no lock while its threads are awake: how many calls there
  // were; whether the last one may have tasks left; the workers that are inside it.
  static constexpr uint64_t kBusy = (1u << 16) - 1, kOpen = 1u << 16, kOneCall = 1u << 17, kNumber = ~(kOneCall - 1);

  void start(int threads) {
    stopping_ = false;
    hands_ = std::vector<Hand>(size_t(threads));
    const uint64_t seen = calls_ & kNumber;
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i, seen] { loop(i, seen); });
  }

  void stop() {
    stopping_ = true;
    notify(true, wake_);
    for (auto& worker : workers_) worker.join();
    workers_.clear();
  }

  // Whoever sleeps says so before it looks for a change a last time, and whoever changes something looks for sleepers
  // afterwards: one of them sees the other.
  template <typename Ready>
  void sleep(std::atomic<int>& sleepers, std::condition_variable& until, const Ready& ready) {
    std::unique_lock<std::mutex> lock(mutex_);
    ++sleepers;
    until.wait(lock, ready);
    --sleepers;
  }
  void notify(bool is_needed, std::condition_variable& sleepers) {
    if (!is_needed) return;
    { std::lock_guard<std::mutex> lock(mutex_); }  // a sleeper has looked or waits
    sleepers.notify_all();
  }

  void work(size_t own) {
    inside_task = true;
    for (int64_t t = hands_[own].take_first(); t >= 0; t = hands_[own].take_first()) run_task(own, t);
    const size_t count = hands_.size();
    for (size_t i = 1; i < count; ++i) {
      const size_t other = (own + i) % count;
      for (int64_t t = hands_[other].take_last(); t >= 0; t = hands_[other].take_last()) run_task(other, t);
    }
    inside_task = false;
  }

  void run_task(size_t hand, int64_t number) {
    fn_(context_, share_ == Share::kRun ? number : number * int64_t(hands_.size()) + int64_t(hand));
  }

  // Joins the call, unless it is over.
  bool enter(uint64_t calls) {
    while (calls & kOpen)
      if (calls_.compare_exchange_weak(calls, calls + 1)) return true;
    return false;
  }

  void loop(int thread, uint64_t seen) {
    const auto has_news = [&] { return stopping_ || (calls_ & kNumber) != seen; };
    for (;;) {
      look_for(has_news);
      if (!has_news()) sleep(sleeping_, wake_, has_news);
      if (stopping_) return;
      const uint64_t calls = calls_;
      seen = calls & kNumber;
      if (!enter(calls)) continue;
      work(size_t(thread));
      if ((calls_.fetch_sub(1) & (kBusy | kOpen)) == 1) notify(caller_sleeps_ > 0, idle_);
    }
  }

  std::mutex caller_;  // one op at a time; a second engine in the process waits its turn
  std::mutex mutex_;   // of those who sleep
  std::condition_variable wake_, idle_;
  std::vector<std::thread> workers_;
  // What a call is; written while no worker is inside one.
  std::vector<Hand> hands_;  // one a thread
  Share share_ = Share::kRun;
  void* context_ = nullptr;
  TaskFunction fn_ = nullptr;
  alignas(64) std::atomic<uint64_t> calls_{0};
  std::atomic<int> sleeping_{0}, caller_sleeps_{0};
  std::atomic<bool> stopping_{false};
};

Pool& pool() {
  static Pool* instance = new Pool(std::max(1u, std::thread::hardware_concurrency()));
  return *instance;
}

}  // namespace

int thread_count() { return pool().size(); }

void set_thread_count(int threads) {
  require(threads >= 1 && threads <= 1024, "set_thread_count", "threads: expected 1..1024, got ", threads);
  pool().resize(threads);
}

void run_tasks(int64_t tasks, void* context, TaskFunction fn, Share share) {
  if (tasks <= 0) return;
  if (tasks == 1 || inside_task || pool().size() == 1) {
    for (int64_t t = 0; t < tasks; ++t) fn(context, t);
    return;
  }
  require(tasks <= kTasksMax, "run_tasks", "tasks: expected at most ", kTasksMax, ", got ", tasks);
  pool().run(tasks, context, fn, share);
}

}  // namespace nibble
