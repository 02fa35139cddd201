// A device without memory of its own, for the meta device: bytes go nowhere, what is read is zeros, blocks are
// meta_memory()'s. The build renames the namespace and the memory; see CMakeLists.txt.
#include <cstring>

#include "backends/cuda/fault.h"
#include "core/device_graph.h"
#include "core/device_memory.h"

namespace nibble::cuda {

const std::string& unavailable() {
  static const std::string* none = new std::string;
  return *none;
}

void* allocate(int64_t) {
  static int nothing;
  return &nothing;
}

void upload(void*, const void*, int64_t) {}
void download(void* to, const void*, int64_t bytes) { std::memset(to, 0, size_t(bytes)); }
void clear(void*, int64_t) {}
void synchronize() {}
bool is_recording() { return false; }

int* host_fault_word() {
  static int word = kNoFault;
  return &word;
}

int* fault_word() { return host_fault_word(); }

}  // namespace nibble::cuda
