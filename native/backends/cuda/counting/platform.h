// CUDA's words where nothing runs: launches are left out and kernels are not compiled, so what is left of an op is what it
// asks of memory. The meta device counts a card's workspace so, without a copy of its sizes that could go stale.
#pragma once

#include "backends/cuda/emulation/platform.h"

#define launch(...) static_cast<void>(0)
#define submit(...) static_cast<void>(0)
