// A pool of worker threads sized by the caller. Work is split into numbered tasks that are the same
// whatever the number of threads, so results are too.
#pragma once

#include <cstdint>
#include <type_traits>

namespace nibble {

// Threads used by ops, the calling one included. Default: the hardware's.
int thread_count();
void set_thread_count(int threads);

using TaskFunction = void (*)(void* context, int64_t task);

// What of the tasks is a thread's own; when it has done that, it takes others'.
enum class Share {
  kRun,    // tasks that follow each other, for those that read memory in order
  kDealt,  // every so manieth, as cards are dealt, for tasks of which the first ones take longest
};

// Runs fn(context, task) for every task in [0, tasks). Tasks must not depend on each other's order.
// Returns when all are done. Called from inside a task it runs serially.
void run_tasks(int64_t tasks, void* context, TaskFunction fn, Share share);

template <typename Body>
void parallel_for(int64_t tasks, Body&& body, Share share = Share::kRun) {
  const auto call = [](void* context, int64_t task) {
    (*static_cast<typename std::remove_reference<Body>::type*>(context))(task);
  };
  run_tasks(tasks, &body, call, share);
}

}  // namespace nibble
