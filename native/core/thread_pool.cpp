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

// How long a thread looks for work before it sleeps. Ops of a step follow each other within this time, and
// waking a sleeping thread takes longer than a small op.
constexpr std::chrono::microseconds kAlertTime{50};

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

  void run(int64_t tasks, void* context, TaskFunction fn) {
    std::lock_guard<std::mutex> one_caller(caller_);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      context_ = context;
      fn_ = fn;
      tasks_ = tasks;
      next_.store(0, std::memory_order_relaxed);
      open_ = true;
      ++generation_;
    }
    wake_.notify_all();
    work(tasks, context, fn);
    // All tasks are taken: a worker that is still asleep is not waited for.
    std::unique_lock<std::mutex> lock(mutex_);
    open_ = false;
    lock.unlock();
    look_for([this] { return busy_ == 0; });
    lock.lock();
    idle_.wait(lock, [this] { return busy_ == 0; });
  }

 private:
  void start(int threads) {
    stopping_ = false;
    const uint64_t seen = generation_;
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, seen] { loop(seen); });
  }

  void stop() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
    workers_.clear();
  }

  void work(int64_t tasks, void* context, TaskFunction fn) {
    inside_task = true;
    for (int64_t t = next_.fetch_add(1); t < tasks; t = next_.fetch_add(1)) fn(context, t);
    inside_task = false;
  }

  void loop(uint64_t seen) {
    for (;;) {
      look_for([&] { return stopping_ || generation_ != seen; });
      std::unique_lock<std::mutex> lock(mutex_);
      if (!stopping_ && !open_ && generation_ != seen) {  // came too late for that call
        seen = generation_;
        continue;
      }
      wake_.wait(lock, [&] { return stopping_ || (open_ && generation_ != seen); });
      if (stopping_) return;
      seen = generation_;
      ++busy_;
      const int64_t tasks = tasks_;
      void* const context = context_;
      const TaskFunction fn = fn_;
      lock.unlock();
      work(tasks, context, fn);
      lock.lock();
      if (--busy_ == 0) idle_.notify_one();
    }
  }

  std::mutex caller_;  // one op at a time; a second engine in the process waits its turn
  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::vector<std::thread> workers_;
  std::atomic<int64_t> next_{0};
  int64_t tasks_ = 0;
  void* context_ = nullptr;
  TaskFunction fn_ = nullptr;
  // Written under the mutex; read without it by threads that look for a change.
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> busy_{0};  // workers inside the present call
  std::atomic<bool> stopping_{false};
  bool open_ = false;  // there may be tasks left to take
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

void run_tasks(int64_t tasks, void* context, TaskFunction fn) {
  if (tasks <= 0) return;
  if (tasks == 1 || inside_task || pool().size() == 1) {
    for (int64_t t = 0; t < tasks; ++t) fn(context, t);
    return;
  }
  pool().run(tasks, context, fn);
}

}  // namespace nibble
