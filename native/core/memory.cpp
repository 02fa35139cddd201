#include "core/memory.h"

#include <algorithm>
#include <cstdlib>

#include "core/error.h"

namespace nibble {

namespace {

constexpr int64_t kAlignment = 64;

// Rounds up to a size class at most 1/8 above the request, so that freed blocks fit later requests.
int64_t size_class(int64_t bytes) {
  int64_t step = kAlignment;
  while (step * 16 < bytes) step *= 2;
  return std::max(kAlignment, (bytes + step - 1) / step * step);
}

}  // namespace

void* Memory::allocate(int64_t bytes, Kind kind) {
  require(bytes >= 0, "allocate", "bytes: expected >= 0, got ", bytes);
  const int64_t size = size_class(bytes);
  std::lock_guard<std::mutex> lock(mutex_);
  if (limit_ > 0 && total_ + size > limit_) {
    throw Error(Code::kResourceExhausted, "allocate",
                "memory limit: " + std::to_string(limit_) + " bytes, in use " +
                    std::to_string(total_) + ", asked for " + std::to_string(size) + " more (" +
                    kKindNames[int(kind)] + ")");
  }
  void* pointer = nullptr;
  auto& list = free_[size];
  if (!list.empty()) {
    pointer = list.back();
    list.pop_back();
    report_.cached -= size;
  } else {
    pointer = std::aligned_alloc(kAlignment, size_t(size));
    if (pointer == nullptr && trim_locked() > 0) pointer = std::aligned_alloc(kAlignment, size_t(size));
  }
  if (pointer == nullptr) {
    throw Error(Code::kResourceExhausted, "allocate",
                "the system refused " + std::to_string(size) + " bytes (" + kKindNames[int(kind)] +
                    "), in use " + std::to_string(total_));
  }
  live_[pointer] = {size, kind};
  const int k = int(kind);
  total_ += size;
  report_.current[k] += size;
  report_.peak[k] = std::max(report_.peak[k], report_.current[k]);
  report_.peak_total = std::max(report_.peak_total, total_);
  return pointer;
}

void Memory::release(void* pointer) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = live_.find(pointer);
  if (found == live_.end()) throw Error(Code::kInternal, "release", "this pointer is not allocated");
  const Block block = found->second;
  live_.erase(found);
  report_.current[int(block.kind)] -= block.bytes;
  total_ -= block.bytes;
  // Weights and adapters come and go rarely and are large: the system gets them back at once.
  if (block.kind == Kind::kWeights || block.kind == Kind::kAdapter) {
    std::free(pointer);
    return;
  }
  free_[block.bytes].push_back(pointer);
  report_.cached += block.bytes;
}

MemoryReport Memory::report() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return report_;
}

void Memory::reset_peak() {
  std::lock_guard<std::mutex> lock(mutex_);
  for (int k = 0; k < kKinds; ++k) report_.peak[k] = report_.current[k];
  report_.peak_total = total_;
}

void Memory::set_limit(int64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  limit_ = bytes;
}

int64_t Memory::trim() {
  std::lock_guard<std::mutex> lock(mutex_);
  return trim_locked();
}

int64_t Memory::trim_locked() {
  const int64_t given_back = report_.cached;
  for (auto& [size, list] : free_) {
    for (void* pointer : list) std::free(pointer);
    list.clear();
  }
  report_.cached = 0;
  return given_back;
}

Memory& memory() {
  static Memory* instance = new Memory;  // never destroyed: tensors may outlive static destructors
  return *instance;
}

}  // namespace nibble
