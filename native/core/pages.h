// Memory in pages of the system's own, huge ones where there are any: fewer faults, fewer misses of the page table's cache.
#pragma once

#include <sys/mman.h>

#include <cstdint>

namespace nibble {

// From here a block is a mapping of its own: the system has it back as soon as it is given back, whatever lies around it.
constexpr int64_t kMappedMin = 1 << 17;

// Zeros; null when the system refuses.
inline void* map_pages(int64_t bytes) {
  void* const data = mmap(nullptr, size_t(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return nullptr;
#if defined(MADV_HUGEPAGE)
  madvise(data, size_t(bytes), MADV_HUGEPAGE);
#endif
  return data;
}

inline void unmap_pages(void* data, int64_t bytes) { munmap(data, size_t(bytes)); }

}  // namespace nibble
