// Device memory for the emulation: the host's own, of a size that tests set. Work is done when a call returns.
#include <cstdlib>
#include <cstring>
#include <unordered_map>

#include "backends/cuda/emulation/device.h"
#include "backends/cuda/emulation/platform.h"
#include "backends/cuda/fault.h"
#include "core/device_graph.h"
#include "core/device_memory.h"

namespace nibble::cuda {

namespace {

constexpr size_t kAlignment = 256;

std::unordered_map<void*, int64_t> blocks;
int64_t used = 0, capacity = int64_t{4} << 30;
std::string reason;

void* take(int64_t bytes) {
  if (used + bytes > capacity) return nullptr;
  void* data = nullptr;
  if (posix_memalign(&data, kAlignment, size_t(bytes)) != 0) return nullptr;
  blocks[data] = bytes;
  used += bytes;
  return data;
}

}  // namespace

namespace emulation {
void set_capacity(int64_t bytes) { capacity = bytes; }
void set_unavailable(const std::string& why) { reason = why; }
}  // namespace emulation

const std::string& unavailable() { return reason; }

DeviceFacts device_facts() {
  return {.name = "emulation", .architecture = "host", .total = capacity, .free = capacity - used, .bandwidth = 0,
          .processors = 1};
}

void* allocate(int64_t bytes) {
  refuse_recording("allocate");
  return take(bytes);
}

void release(void* data) {
  refuse_recording("release");
  used -= blocks.at(data);
  blocks.erase(data);
  std::free(data);
}

void* allocate_managed(int64_t bytes) {
  void* const data = take(bytes);
  if (data != nullptr) std::memset(data, 0, size_t(bytes));
  return data;
}

void release_managed(void* data) { release(data); }
void advise_managed(void*, int64_t, Use) {}

void upload(void* to, const void* from, int64_t bytes) {
  refuse_recording("upload");
  std::memcpy(to, from, size_t(bytes));
}

void download(void* to, const void* from, int64_t bytes) {
  refuse_recording("download");
  std::memcpy(to, from, size_t(bytes));
  throw_fault();
}

void clear(void* data, int64_t bytes) {
  emulation::queue([=] { std::memset(data, 0, size_t(bytes)); });
}

void synchronize() {
  refuse_recording("synchronize");
  throw_fault();
}

int* host_fault_word() {
  static int word = kNoFault;
  return &word;
}

int* fault_word() { return host_fault_word(); }

}  // namespace nibble::cuda
