#include "backends/cuda/fault.h"

#include "core/error.h"

namespace nibble::cuda {

void throw_fault() {
  constexpr const char* ops[] = {"", "embedding", "rope", "kv_write", "linear_cross_entropy", "paged_attention", "sample"};
  constexpr const char* names[] = {"", "ids", "positions", "slot", "labels", "block_table, sequence or position", "seen"};
  volatile int* const word = host_fault_word();
  const int fault = *word;
  if (fault == kNoFault) return;
  *word = kNoFault;
  throw Error(Code::kInvalidArgument, ops[fault], std::string(names[fault]) + ": expected indices in range, got others");
}

}  // namespace nibble::cuda
