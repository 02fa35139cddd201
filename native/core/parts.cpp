#include "core/parts.h"

#include <algorithm>

namespace nibble {

Parts::Parts(int64_t size) : size_(size) {}

Parts::~Parts() = default;

void Parts::add(int64_t count) {
  ends_.push_back(this->count() + (count + size_ - 1) / size_);
  counts_.push_back(count);
}

int64_t Parts::count() const { return ends_.empty() ? 0 : ends_.back(); }

Part Parts::at(int64_t number) const {
  const auto thing = size_t(std::upper_bound(ends_.begin(), ends_.end(), number) - ends_.begin());
  const int64_t begin = (thing == 0 ? number : number - ends_[thing - 1]) * size_;
  return {int(thing), begin, std::min(begin + size_, counts_[thing])};
}

}  // namespace nibble
