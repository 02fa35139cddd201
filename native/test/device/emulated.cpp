#include "backends/cuda/emulation/device.h"
#include "test/device.h"

#include <cstdlib>

namespace nibble::test::device {

bool has_cuda() { return true; }
bool is_emulated() { return true; }

char* allocate(int64_t bytes) {
  void* data = nullptr;
  return posix_memalign(&data, 64, size_t(bytes)) == 0 ? static_cast<char*>(data) : nullptr;
}

void release(char* data) { std::free(data); }

std::vector<Traffic> traffic_of(const std::function<void()>& work) {
  cuda::emulation::start_counting();
  work();
  std::vector<Traffic> all;
  for (const cuda::emulation::Traffic& t : cuda::emulation::stop_counting())
    all.push_back({t.shared_cycles, t.shared_least, t.global_bytes, t.global_wanted});
  return all;
}

Reversed::Reversed() { cuda::emulation::set_reversed(true); }
Reversed::~Reversed() { cuda::emulation::set_reversed(false); }

}  // namespace nibble::test::device
