#include "core/device_memory.h"
#include "core/memory.h"
#include "test/device.h"

namespace nibble::test::device {

bool has_cuda() { return cuda::unavailable().empty(); }
bool is_emulated() { return false; }

char* allocate(int64_t bytes) {
  return static_cast<char*>(cuda_memory().allocate_paged(bytes > 0 ? bytes : 1, ""));
}

void release(char* data) { cuda_memory().release(data); }

std::vector<Traffic> traffic_of(const std::function<void()>&) { return {}; }

Reversed::Reversed() = default;
Reversed::~Reversed() = default;

}  // namespace nibble::test::device
