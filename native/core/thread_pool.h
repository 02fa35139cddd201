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

// Runs fn(context, task) for every task in [0, tasks). Tasks must not depend on each other's order.
// Returns when all are done. Called from inside a task it runs serially.
void run_tasks(int64_t tasks, void* context, TaskFunction fn);

template <typename Body>
void parallel_for(int64_t tasks, Body&& body) {
  run_tasks(tasks, &body, [](void* context, int64_t task) {
    (*static_cast<typename std::remove_reference<Body>::type*>(context))(task);
  });
}

}  // namespace nibble
