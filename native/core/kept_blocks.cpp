#include "core/kept_blocks.h"

#include <algorithm>

#include "core/pages.h"

namespace nibble {

void KeptBlocks::add(void* pointer, int64_t bytes) {
  of_size_[bytes].push_back(by_age_.insert(by_age_.end(), {pointer, bytes}));
  bytes_ += bytes;
}

void KeptBlocks::remove(Blocks::iterator block) {
  const auto of_size = of_size_.find(block->bytes);
  auto& blocks = of_size->second;
  blocks.erase(std::find(blocks.begin(), blocks.end(), block));
  if (blocks.empty()) of_size_.erase(of_size);
  bytes_ -= block->bytes;
  by_age_.erase(block);
}

void* KeptBlocks::take(int64_t bytes) {
  const auto found = of_size_.find(bytes);
  if (found == of_size_.end()) return nullptr;
  const auto block = found->second.back();
  void* const pointer = block->pointer;
  remove(block);
  return pointer;
}

KeptBlocks::Kept KeptBlocks::take_oldest() {
  const Kept oldest = by_age_.front();
  remove(by_age_.begin());
  return oldest;
}

void* KeptBlocks::take_part(int64_t bytes) {
  if (bytes < kMappedMin) return nullptr;
  int64_t larger = 0;
  for (const auto& [size, blocks] : of_size_)
    if (size > bytes && (larger == 0 || size < larger)) larger = size;
  if (larger == 0) return nullptr;
  char* const begin = static_cast<char*>(take(larger));
  const int64_t rest = larger - bytes;
  if (rest >= kMappedMin) add(begin + bytes, rest);
  else unmap_pages(begin + bytes, rest);
  return begin;
}

}  // namespace nibble
