// Whose workspace the meta device counts.
#pragma once

#include "core/tensor.h"

namespace nibble {

// kCpu, which is the default, or kCuda; of the ops that this thread calls from here on.
void count_workspace_of(Device device);

}  // namespace nibble
