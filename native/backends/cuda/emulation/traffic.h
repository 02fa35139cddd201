// What emulation.cpp tells traffic.cpp of what warps access, while that is counted.
#pragma once

#include "platform.h"

namespace nibble::cuda::emulation {

// Of one thread of the block that runs; `site` is where in the code.
void note_access(const void* at, int bytes, int thread, const void* site);
void begin_launch_traffic();
void end_block_traffic(const void* shared, int64_t shared_bytes);

}  // namespace nibble::cuda::emulation
