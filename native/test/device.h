// The CUDA device of tests: a card, or the emulation that this binary is built with. device/real.cpp is for the one,
// device/emulated.cpp for the other; CMake chooses.
#pragma once

#include <cstdint>

namespace nibble::test::device {

bool has_cuda();
bool is_emulated();
// Memory of the device that the host reads and writes too.
char* allocate(int64_t bytes);
void release(char* data);

// As long as it lives the emulation runs a block's threads from the last to the first.
class Reversed {
 public:
  Reversed();
  ~Reversed();
};

}  // namespace nibble::test::device
