// Indices in a tensor on the device are not readable where arguments are checked: kernels check them, leave out what
// is out of range, and say so in one word that the host reads whenever it waits for the device anyway.
#pragma once

#include "platform.h"

namespace nibble::cuda {

enum Fault : int { kNoFault, kEmbeddingIds, kRopePositions, kKvSlot, kLabels, kBlockTable, kSeenIds };

// The word, as kernels write it.
int* fault_word();
// The same word, as the host reads it.
int* host_fault_word();

// The index, or -1 and the fault where it is not in [0, limit).
__device__ inline int64_t checked_index(int32_t index, int64_t limit, Fault fault, int* word) {
  if (index >= 0 && index < limit) return index;
  *word = fault;
  return -1;
}

// After waiting: throws INVALID_ARGUMENT with the op and the argument if a kernel met such an index since the last time.
void throw_fault();

}  // namespace nibble::cuda
