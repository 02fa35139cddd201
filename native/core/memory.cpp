#include "core/memory.h"

#include <algorithm>
#include <cstdlib>

#include "core/device_memory.h"
#include "core/error.h"
#include "core/pages.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace nibble {

namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kPage = 4096;

}  // namespace

int64_t allocated_size(int64_t bytes) {
  int64_t step = kAlignment;
  while (step * 16 < bytes) step *= 2;
  return std::max(kAlignment, (bytes + step - 1) / step * step);
}

void* Memory::from_system(int64_t size, Kind kind) {
  if (source_ == Source::kNowhere) return reinterpret_cast<void*>(nowhere_ += kAlignment);
  if (source_ == Source::kCuda) return cuda::allocate(size);
  if (size < kMappedMin) return std::aligned_alloc(kAlignment, size_t(size));
  if (kind == Kind::kWeights && Slabs::takes(size)) return slabs_.allocate(size);
  return map_pages(size);
}

void Memory::to_system(void* pointer, int64_t size) {
  if (source_ == Source::kNowhere) return;
  if (source_ == Source::kCuda) return cuda::release(pointer);
  if (size < kMappedMin) return std::free(pointer);
  if (!slabs_.release(pointer)) unmap_pages(pointer, size);
}

void* Memory::take_pooled(int64_t size) {
  if (pool_ == nullptr) return nullptr;
  std::vector<void*>& free = pool_->free[size];
  if (free.empty()) return nullptr;
  void* const pointer = free.back();
  free.pop_back();
  return pointer;
}

// Of what is kept. A size that is not there is cut from others only where there is no room for more.
void* Memory::take_kept(int64_t size) {
  void* const pointer = kept_.take(size);
  if (pointer != nullptr || source_ != Source::kSystem || total_ + kept_.bytes() + size <= most_) return pointer;
  return kept_.take_part(size);
}

void Memory::drop_oldest() {
  const auto [pointer, size] = kept_.take_oldest();
  to_system(pointer, size);
}

void Memory::count(const Block& block) {
  if (block.is_paged) {
    report_.paged += block.bytes;
    report_.paged_peak = std::max(report_.paged_peak, report_.paged);
    return;
  }
  const int k = int(block.kind);
  total_ += block.bytes;
  report_.current[k] += block.bytes;
  report_.peak[k] = std::max(report_.peak[k], report_.current[k]);
  most_ = std::max(most_, total_);
  if (total_ <= report_.peak_total) return;
  report_.peak_total = total_;
  std::copy(report_.current, report_.current + kKinds, report_.at_peak);
}

void* Memory::allocate(int64_t bytes, Kind kind) {
  require(bytes >= 0, "allocate", "bytes: expected >= 0, got ", bytes);
  const int64_t size = allocated_size(bytes);
  std::lock_guard<std::mutex> lock(mutex_);
  if (void* const pooled = take_pooled(size)) return pooled;
  if (limit_ > 0 && total_ + size > limit_) {
    throw Error(Code::kResourceExhausted, "allocate",
                "memory limit: " + std::to_string(limit_) + " bytes, in use " +
                    std::to_string(total_) + ", asked for " + std::to_string(size) + " more (" +
                    kKindNames[int(kind)] + ")" + usage_text());
  }
  void* pointer = take_kept(size);
  if (pointer == nullptr) {
    // What is kept makes room for what is asked for, so that it never adds to the peak.
    while (!kept_.is_empty() && total_ + kept_.bytes() + size > most_) drop_oldest();
    pointer = from_system(size, kind);
    if (pointer == nullptr && trim_locked() > 0) pointer = from_system(size, kind);
  }
  if (pointer == nullptr) {
    throw Error(Code::kResourceExhausted, "allocate",
                std::string(source_ == Source::kCuda ? "the device" : "the system") + " refused " +
                    std::to_string(size) + " bytes (" + kKindNames[int(kind)] + "), in use " +
                    std::to_string(total_) + usage_text());
  }
  const Block block{size, kind, false, pool_};
  live_[pointer] = block;
  count(block);
  return pointer;
}

// " (weights 1, ...)": what is in use, by kind.
std::string Memory::usage_text() const {
  std::string text;
  for (int k = 0; k < kKinds; ++k) {
    if (report_.current[k] == 0) continue;
    text += (text.empty() ? "; " : ", ") + std::string(kKindNames[k]) + " " + std::to_string(report_.current[k]);
  }
  return text;
}

void* Memory::page(int64_t size, const std::string& folder) {
  if (source_ == Source::kNowhere) return from_system(size, Kind::kOptimizer);
  if (source_ == Source::kSystem) return map_spill(folder, size);
  void* const data = cuda::allocate_managed(size);
  if (data != nullptr) return data;
  std::lock_guard<std::mutex> lock(mutex_);
  throw Error(Code::kResourceExhausted, "allocate",
              "the device has less memory free than would be paged: " + std::to_string(report_.paged + size) +
                  " bytes; in use " + std::to_string(total_) + usage_text());
}

void Memory::unpage(void* pointer, int64_t size) {
  if (source_ == Source::kSystem) unmap_spill(pointer, size);
  if (source_ == Source::kCuda) cuda::release_managed(pointer);
}

void* Memory::allocate_paged(int64_t bytes, const std::string& folder) {
  require(bytes > 0, "allocate", "bytes: expected > 0 to page, got ", bytes);
  const Block block{(bytes + kPage - 1) / kPage * kPage, Kind::kOptimizer, true};
  void* const pointer = page(block.bytes, folder);
  std::lock_guard<std::mutex> lock(mutex_);
  live_[pointer] = block;
  count(block);
  return pointer;
}

void Memory::use_pool(Pool* pool) {
  std::lock_guard<std::mutex> lock(mutex_);
  pool_ = pool;
}

void Memory::free_pool(Pool& pool) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (auto& [pointer, block] : live_) {
    if (block.pool == &pool) block.pool = nullptr;
  }
  for (const auto& [size, pointers] : pool.free) {
    for (void* const pointer : pointers) release_locked(pointer);
  }
  pool.free.clear();
}

void Memory::release(void* pointer) {
  std::lock_guard<std::mutex> lock(mutex_);
  release_locked(pointer);
}

void Memory::release_locked(void* pointer) {
  const auto found = live_.find(pointer);
  if (found == live_.end()) throw Error(Code::kInternal, "release", "this pointer is not allocated");
  const Block block = found->second;
  if (block.pool != nullptr) return block.pool->free[block.bytes].push_back(pointer);
  live_.erase(found);
  if (block.is_paged) {
    report_.paged -= block.bytes;
    return unpage(pointer, block.bytes);
  }
  report_.current[int(block.kind)] -= block.bytes;
  total_ -= block.bytes;
  // Weights and adapters come and go rarely and are large: the system gets them back at once.
  if (block.kind == Kind::kWeights || block.kind == Kind::kAdapter) return to_system(pointer, block.bytes);
  kept_.add(pointer, block.bytes);
}

void Memory::advise(void* pointer, Use use) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = live_.find(pointer);
  if (found == live_.end()) throw Error(Code::kInternal, "advise", "this pointer is not allocated");
  if (!found->second.is_paged) return;
  if (source_ == Source::kSystem) advise_spill(pointer, found->second.bytes, use);
  if (source_ == Source::kCuda) cuda::advise_managed(pointer, found->second.bytes, use);
}

void Memory::count_mapped(int64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  report_.mapped += bytes;
  count({bytes, Kind::kWeights, false});
}

MemoryReport Memory::report() const {
  std::lock_guard<std::mutex> lock(mutex_);
  MemoryReport report = report_;
  report.cached = kept_.bytes();
  return report;
}

void Memory::reset_peak() {
  std::lock_guard<std::mutex> lock(mutex_);
  std::copy(report_.current, report_.current + kKinds, report_.peak);
  std::copy(report_.current, report_.current + kKinds, report_.at_peak);
  report_.peak_total = total_;
  report_.paged_peak = report_.paged;
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
  const int64_t given_back = kept_.bytes();
  while (!kept_.is_empty()) drop_oldest();
  slabs_.trim();
  most_ = total_;
#if defined(__GLIBC__)
  if (source_ == Source::kSystem) malloc_trim(0);  // free pages between small blocks
#endif
  return given_back;
}

void settle_system_allocator() {
#if defined(__GLIBC__)
  // By default glibc raises this threshold up to 32 MiB with what is freed, and keeps blocks below it.
  mallopt(M_MMAP_THRESHOLD, int(kMappedMin));
#endif
}

Memory& memory() {
  static Memory* instance = new Memory;  // never destroyed: tensors may outlive static destructors
  return *instance;
}

Memory& cuda_memory() {
  static Memory* instance = new Memory(Source::kCuda);
  return *instance;
}

Memory& meta_memory() {
  static Memory* instance = new Memory(Source::kNowhere);
  return *instance;
}

}  // namespace nibble
