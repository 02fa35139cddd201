// Dropout masks in vectors: the same numbers as ops/philox.h, kWidth counters at once.
#pragma once

#include "backends/cpu/simd.h"
#include "ops/linear.h"

namespace nibble::cpu::NIBBLE_ISA {

// values[i] *= the mask of element `first + i`: 0 or 1 / (1 - p).
void apply_dropout(const Dropout& d, int64_t first, int64_t count, float* values);

}  // namespace nibble::cpu::NIBBLE_ISA
