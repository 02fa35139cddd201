// Memory in a file: what lies here is not lost when the system is short of memory but written out, and read
// again when it is touched. For optimizer state (QLoRA's paged optimizers, arXiv:2305.14314 §3), which a step
// uses once, a tensor at a time. It counts no bytes: core/memory.h does.
#pragma once

#include <cstdint>
#include <string>

namespace nibble {

// `bytes` (> 0) of zeros, page-aligned, in a file of their own in `folder` that has no name: it is gone with
// the mapping or the process. Its room on the disk is taken at once, so that no later write can fail for want of it.
// Throws FAILED_PRECONDITION for a folder that is missing or is itself in memory (tmpfs), RESOURCE_EXHAUSTED
// when the disk has no room.
void* map_spill(const std::string& folder, int64_t bytes);
void unmap_spill(void* data, int64_t bytes);

// What is said of a range's next use. Both are advice: nothing is lost where the system does not take it.
enum class Use : uint8_t {
  kSoon,   // read it in now
  kLater,  // the first to go when memory is short
};
void advise_spill(void* data, int64_t bytes, Use use);

}  // namespace nibble
