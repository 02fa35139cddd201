// How much of the logits the loss of the output layer makes at a time.
#pragma once

#include "ops/cross_entropy.h"

namespace nibble::cuda {

constexpr int64_t kLogitsMax = 32 << 20;  // float32, of a chunk of rows: a workspace of 128 MiB

// In chunks of at most so many logits, but at least of a row.
void linear_cross_entropy(const CrossEntropyArgs& args, int64_t logits_max);

}  // namespace nibble::cuda
