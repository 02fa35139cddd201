// Work on the CUDA device that is queued once and run many times (CUDA graphs): what the binding asks of the CUDA backend, or
// of backends/no_cuda. A replay is one call instead of hundreds of launches. It reads and writes the addresses that were
// recorded, so what they are must stay where it is: tensors that the owner keeps, and blocks of a pool of
// core/memory.h.
#pragma once

#include <memory>

namespace nibble::cuda {

class Graph {
 public:
  virtual ~Graph() = default;  // waits
  virtual void replay() = 0;   // queued as any other work
};

// What is launched and cleared from here on is recorded and not run. What waits for the device, and what moves bytes to or
// from it, throws FAILED_PRECONDITION meanwhile, and so do allocations that need the driver. One recording at a time.
void begin_recording();
// Ends it in any case. Throws INTERNAL with the driver's reason where it did not become a graph.
std::unique_ptr<Graph> end_recording();
bool is_recording();
// Of the CUDA backend: throws FAILED_PRECONDITION, naming `what`, while recording.
void refuse_recording(const char* what);

}  // namespace nibble::cuda
