// Blocks that their owners have given back, for those who ask next: pages that are there already need no fault and no clearing.
// It takes nothing from the system.
#pragma once

#include <cstdint>
#include <list>
#include <unordered_map>
#include <vector>

namespace nibble {

class KeptBlocks {
 public:
  struct Kept {
    void* pointer;
    int64_t bytes;
  };

  void add(void* pointer, int64_t bytes);
  int64_t bytes() const { return bytes_; }
  bool is_empty() const { return by_age_.empty(); }
  // The newest block of exactly so many bytes; null: there is none.
  void* take(int64_t bytes);
  // The beginning of the smallest larger block, for mappings; the rest stays. Null: there is none.
  void* take_part(int64_t bytes);
  // Not when it is empty.
  Kept take_oldest();

 private:
  using Blocks = std::list<Kept>;
  void remove(Blocks::iterator block);

  Blocks by_age_;
  std::unordered_map<int64_t, std::vector<Blocks::iterator>> of_size_;  // newest last
  int64_t bytes_ = 0;
};

}  // namespace nibble
