#include "core/slabs.h"

#include "core/pages.h"

namespace nibble {

void* Slabs::allocate(int64_t bytes) {
  if (current_ == 0 || slabs_[current_].used + bytes > kBytes) {
    void* const data = map_pages(kBytes);
    if (data == nullptr) return nullptr;
    current_ = reinterpret_cast<uintptr_t>(data);
    slabs_[current_] = {0, 0};
  }
  Slab& slab = slabs_[current_];
  void* const block = reinterpret_cast<void*>(current_ + uintptr_t(slab.used));
  slab.used += bytes;
  ++slab.blocks;
  return block;
}

bool Slabs::release(void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  auto found = slabs_.upper_bound(address);
  if (found == slabs_.begin() || address >= (--found)->first + uintptr_t(kBytes)) return false;
  if (--found->second.blocks > 0) return true;
  found->second.used = 0;
  if (found->first == current_) return true;
  unmap_pages(reinterpret_cast<void*>(found->first), kBytes);
  slabs_.erase(found);
  return true;
}

void Slabs::trim() {
  if (current_ == 0 || slabs_[current_].blocks > 0) return;
  unmap_pages(reinterpret_cast<void*>(current_), kBytes);
  slabs_.erase(current_);
  current_ = 0;
}

}  // namespace nibble
