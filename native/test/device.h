// The CUDA device of tests: a card, or the emulation that this binary is built with. device/real.cpp is for the one,
// device/emulated.cpp for the other; CMake chooses.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace nibble::test::device {

bool has_cuda();
bool is_emulated();
// Memory of the device that the host reads and writes too.
char* allocate(int64_t bytes);
void release(char* data);

// What a launch's warps ask of memory beside the least that the same accesses could; see emulation/device.h.
struct Traffic {
  int64_t shared_cycles = 0, shared_least = 0;
  int64_t global_bytes = 0, global_wanted = 0;
};
// Of each launch of `work`, on the emulated card; none on a card.
std::vector<Traffic> traffic_of(const std::function<void()>& work);

// As long as it lives the emulation runs a block's threads from the last to the first.
class Reversed {
 public:
  Reversed();
  ~Reversed();
};

}  // namespace nibble::test::device
